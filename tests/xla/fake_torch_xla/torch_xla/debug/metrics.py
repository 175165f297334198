"""FAKE: counts what a test says was compiled."""

compiled = [0]


def metric_data(name):
    return (compiled[0], 0, ()) if name == "CompileTime" and compiled[0] else None
