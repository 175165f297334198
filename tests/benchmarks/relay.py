"""What it costs to print from ranks: in the rank, in the kernel, and until the notebook has it.

Everything runs in real kernels, the launchers in alternating rounds. Four ranks train a small model and print a line
each step; the same loop without printing is what the slow-down is measured against. The kernel's CPU time is that of
its whole process. Run with ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.integration.kernels import Notebook

RANKS = 4
LINES = {"notebook_accel": 100, "accelerate": 1}  # times as many: else ours are too few to be told from a launch
LAUNCHERS = ("notebook_accel", "accelerate")

SETUP = """
import json, os, sys, time
import torch, torch._dynamo  # Accelerate's ranks would import it at their first optimizer
import notebook_accel, accelerate
from notebook_accel.launch import forkserver
os.environ["ACCELERATE_USE_CPU"] = "true"
ports = iter(range(29600, 29999))
folder = {folder!r}

def train(steps, aloud):
    import json, os, time, torch
    torch.set_num_threads(1)
    model = torch.nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    begun = time.perf_counter()
    for step in range(steps):
        loss = model(torch.ones(32, 16)).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if aloud:
            print(f"epoch 1 step {{step:6d}} learning rate 0.01 of this rank")
    with open(f"{{folder}}/{{os.environ['RANK']}}", "w") as file:
        file.write(str((time.perf_counter() - begun) / steps))

def print_lines(count):
    for number in range(count):
        print(f"line {{number:6d}} of this rank, with nothing else to do than to print it")

def notebook_accel_launch(function, *args):
    notebook_accel.notebook_launcher(function, args, num_processes={ranks}, devices="cpu")

def accelerate_launch(function, *args):
    accelerate.notebook_launcher(function, args, num_processes={ranks}, use_port=str(next(ports)))

def measure_lines(launch, count):
    seconds = []
    for lines in (1, count):  # what a launch takes is not what is asked for
        begun = time.perf_counter()
        launch(print_lines, lines)
        seconds.append(time.perf_counter() - begun)
    json.dump([seconds[0], seconds[1], count], open(f"{{folder}}/found", "w"))

def measure(launch, steps, aloud):
    cpu, begun = time.process_time(), time.perf_counter()
    launch(train, steps, aloud)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    per_step = [float(open(f"{{folder}}/{{rank}}").read()) for rank in range({ranks})]
    json.dump([seconds, cpu, sum(per_step) / {ranks}], open(f"{{folder}}/found", "w"))

notebook_accel_launch(train, 1, False)
"""


Found = dict[tuple[str, str], list[list[float]]]


def measure(rounds: int, steps: int) -> Found:
    """Let each launcher train, aloud and in silence, and only print, in an order drawn anew each round."""
    calls = {
        "aloud": f"measure({{}}_launch, {steps}, True)",
        "silent": f"measure({{}}_launch, {steps}, False)",
        "lines": f"measure_lines({{0}}_launch, {steps} * LINES['{{0}}'])",
    }
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        notebook = Notebook(folder)
        try:
            notebook.check(SETUP.format(folder=folder, ranks=RANKS) + f"\nLINES = {LINES}")
            for _ in range(rounds):
                cases = [(name, what) for name in LAUNCHERS for what in calls]
                random.shuffle(cases)
                for name, what in cases:
                    notebook.check(calls[what].format(name))
                    found.setdefault((name, what), []).append(json.loads((Path(folder) / "found").read_text()))
        finally:
            notebook.close()
    return found


def report(found: Found, steps: int) -> None:
    """Print medians, and ours over theirs."""
    lines = steps * RANKS
    table: dict[str, tuple[float, float, float]] = {}
    for name in LAUNCHERS:
        pairs = list(zip(found[name, "aloud"], found[name, "silent"], strict=True))
        per_line = statistics.median(aloud[2] - silent[2] for aloud, silent in pairs)
        cpu = statistics.median(aloud[1] - silent[1] for aloud, silent in pairs)
        a_second = statistics.median(RANKS * count / (many - one) for one, many, count in found[name, "lines"])
        table[name] = 1e6 * per_line, cpu * 100_000 / lines, a_second
    print(f"{RANKS} ranks, {steps} lines each, n={len(found[LAUNCHERS[0], 'lines'])}")
    for index, words in enumerate(
        (
            "slow-down of a training step that prints a line, us",
            "the kernel's CPU seconds for 100,000 lines",
            "lines a second where ranks only print, from print to cell",
        )
    ):
        ours, theirs = (table[name][index] for name in LAUNCHERS)
        print(f"  {words:58s} {ours:12,.2f} {theirs:12,.2f}   {ours / theirs:8.3f} x")


def main() -> None:
    """Measure and print."""
    import accelerate
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"torch {torch.__version__}, beside accelerate {accelerate.__version__}; last column: ours / theirs\n")
    report(measure(options.rounds, options.steps), options.steps)


if __name__ == "__main__":
    main()
