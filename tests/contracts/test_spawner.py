"""What every way to start ranks has to keep: one body, over each."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import types

import psutil
import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import RankFailed, RunInterrupted
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import forkserver
from notebook_accel.launch.fork import ForkSpawner
from notebook_accel.launch.forkserver import ForkserverSpawner
from notebook_accel.launch.inline import InlineSpawner
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.run import Run
from notebook_accel.launch.spawn import SpawnSpawner
from notebook_accel.launch.spawner import Spawner

SPAWNERS = {
    "fork": ForkSpawner,
    "forkserver": ForkserverSpawner,
    "inline": InlineSpawner,
    "spawn": SpawnSpawner,
}
SUPERVISED = sorted(set(SPAWNERS) - {"inline"})


@pytest.fixture(scope="module", autouse=True)
def helper():
    """One warm helper for the module: it exists before each test's leaks are counted."""
    forkserver.warm()
    yield
    forkserver.shut_down()


@pytest.fixture(autouse=True)
def ended_runs():
    """Let supervisors end before leaks are counted: what is found costs the next test a new helper."""
    yield
    gc.collect()
    zygote = forkserver._keeper._zygote
    if zygote is not None:
        psutil.wait_procs(psutil.Process(zygote.pid).children(recursive=True), timeout=10)


@pytest.fixture(params=sorted(SPAWNERS))
def start(request: pytest.FixtureRequest):
    def start(function, *args, seed=None, **kwargs) -> Run:
        spawner: Spawner = SPAWNERS[request.param]()
        config = RunConfig(num_processes=1, start_method=request.param, seed=seed, devices="cpu")
        return spawner.start(make_plan(config, Inventory.fake()), Call(function, args, kwargs))

    return start


def test_the_value_comes_back(start):
    run = start(lambda a, *, b: {"sum": a + b}, 1, b=2)
    result = run.result()
    assert run.state == "succeeded"
    assert (result.value, result[0], list(result), len(result)) == ({"sum": 3}, {"sum": 3}, [{"sum": 3}], 1)
    assert result.elapsed_seconds > 0
    assert "{'sum': 3}" in repr(result)
    with pytest.raises(IndexError, match=r"0\.\.0"):
        result[1]


def test_a_failure_is_the_runs(start):
    def broken():
        print("before")
        raise LookupError("nothing here")

    run = start(broken)
    with pytest.raises(RankFailed, match="rank 0 of 1 failed: LookupError: nothing here") as caught:
        run.result()
    assert run.state == "failed"
    assert isinstance(caught.value.exception, LookupError)
    assert caught.value.exception.args == ("nothing here",)
    assert 'raise LookupError("nothing here")' in caught.value.failures[0].traceback
    assert "notebook_accel" not in caught.value.failures[0].traceback
    assert caught.value.result.logs(0) == "before\n"


def test_what_is_printed_is_kept(start):
    def speak():
        import sys

        print("out")
        sys.stderr.write("err")

    result = start(speak).result()
    assert result.logs(0) == "out\nerr"
    assert result.outputs[0].line_count() == 2


def test_the_function_finds_its_place(start):
    def look():
        import os

        return {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_CPU")}

    expected = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"}
    assert start(look).result().value == expected
    assert "RANK" not in os.environ


def test_an_accelerator_can_be_built(start):
    def build():
        from notebook_accel import Accelerator

        accelerator = Accelerator()
        return accelerator.num_processes, str(accelerator.device), accelerator.mixed_precision

    assert start(build).result().value == (1, "cpu", "no")


def test_a_seed_holds_the_draws(start):
    def draw():
        import random

        import torch

        return random.random(), torch.rand(1).item()

    assert start(draw, seed=5).result().value == start(draw, seed=5).result().value
    assert start(draw).result().value != start(draw).result().value


def test_a_value_that_is_an_exception_is_a_value(start):
    value = start(lambda: ValueError("returned")).result().value
    assert isinstance(value, ValueError)


@pytest.fixture(params=SUPERVISED)
def start_two(request: pytest.FixtureRequest):
    def start_two(function, *args, **config) -> Run:
        asked = RunConfig(num_processes=2, devices="cpu", start_method=request.param, **config)
        return SPAWNERS[request.param]().start(make_plan(asked, Inventory.fake()), Call(function, args))

    return start_two


def sleep_for_ever():
    import time

    print("asleep", flush=True)
    time.sleep(600)


@pytest.mark.parametrize("order", ["interrupt", "kill"])
def test_a_run_can_be_ended(start_two, order: str):
    run = start_two(sleep_for_ever)
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("asleep") == 2:
            assert run.state == "running"
            getattr(run, order)()
    assert run.state == "interrupted"
    with pytest.raises(RunInterrupted, match="sleep_for_ever was interrupted") as caught:
        run.result()
    assert caught.value.result.logs(1) == "asleep\n"
    assert run.interrupt() is None, "an ended run takes orders without complaint"


def test_a_run_is_followed_from_any_thread(start_two):
    run = start_two(lambda: 1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(list(run.result())))
    thread.start()
    thread.join()
    assert found == [[1, 1]]
    assert run.notices() == []


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [((), {}, ((), {})), ((1, [2]), {"c": None}, ((1, [2]), {"c": None})), (({1, 2},), {}, (({1, 2},), {}))],
)
def test_arguments_arrive_as_they_were_given(start, args: tuple, kwargs: dict, expected: tuple):
    assert start(lambda *a, **k: (a, k), *args, **kwargs).result().value == expected


def test_an_ended_run_takes_orders_without_complaint(start):
    run = start(lambda: 1)
    assert run.result().value == run.result().value == 1
    assert "".join(run.output()) == ""
    assert (run.interrupt(), run.kill(), run.notices(), run.state) == (None, None, [], "succeeded")
    assert run.plan.world_size == 1


def test_each_read_of_a_failed_run_raises_the_same(start):
    def broken():
        raise LookupError("x")

    run = start(broken)
    raised = []
    for _ in range(2):
        with pytest.raises(RankFailed) as caught:
            run.result()
        raised.append(caught.value)
    assert raised[0] is raised[1]
    assert (raised[0].rank, raised[0].world_size, len(raised[0].result)) == (0, 1, 1)
    assert run.notices() == []


def test_an_exit_is_a_failure_with_advice(start):
    def leave():
        raise SystemExit(3)

    with pytest.raises(RankFailed, match="SystemExit: 3") as caught:
        start(leave).result()
    assert "return from the function" in caught.value.hint


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_large_values_can_be_written_to(start, name: str):
    def make(name):
        import numpy as np
        import torch

        return np.ones(500_000) if name == "numpy" else torch.ones(500_000)

    value = start(make, name).result().value
    value[0] = 5
    assert value.sum() == 500_004


def notebook_module(source: str) -> types.ModuleType:
    module = types.ModuleType("__main__")
    exec(compile(source, "<cell 1>", "exec"), module.__dict__)
    return module


def test_classes_of_the_notebook_stay_the_notebooks(start):
    cells = notebook_module(
        "class Metrics:\n    def look(self): return factor\nfactor = 1\ndef make(): return Metrics()"
    )
    value = start(cells.make).result().value
    cells.factor = 2
    assert type(value) is cells.Metrics
    assert value.look() == 2


def test_exceptions_of_the_notebook_stay_the_notebooks(start):
    source = "class OwnError(Exception):\n    def look(self): return factor\nfactor = 1\n"
    cells = notebook_module(f"{source}def fail(): raise OwnError('x')")
    with pytest.raises(RankFailed) as caught:
        start(cells.fail).result()
    assert type(caught.value.exception) is cells.OwnError
    cells.factor = 2
    assert cells.OwnError("y").look() == 2


@pytest.mark.parametrize(("ranks", "logged"), [(1, ["0\n"]), (2, ["0\n", "1\n"])])
@pytest.mark.parametrize("method", SUPERVISED)
def test_ranks_have_logs_and_labels_of_their_own(method: str, ranks: int, logged: list[str]):
    def speak():
        import os

        print(os.environ["RANK"])

    plan = make_plan(RunConfig(num_processes=ranks, devices="cpu"), Inventory.fake())
    run = SPAWNERS[method]().start(plan, Call(speak))
    shown = "".join(run.output())
    result = run.result()
    assert [result.logs(rank) for rank in range(ranks)] == logged
    assert sorted(shown.splitlines()) == sorted(["0", "[rank 1] 1"][:ranks])


@pytest.mark.parametrize("too_few", [20, 21, 22, 23])
def test_too_many_ranks_for_the_descriptors_leave_none_open(too_few: int):
    code = """
import gc, os, resource, sys
from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import forkserver
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
before = set(os.listdir("/proc/self/fd"))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + int(sys.argv[1]), hard))
try:
    forkserver.ForkserverSpawner().start(make_plan(RunConfig(num_processes=64), Inventory.fake()), Call(len))
except OSError as error:
    print(error.strerror)
gc.collect()
print(sorted(set(os.listdir("/proc/self/fd")) - before), forkserver._keeper._zygote)
"""
    command = [sys.executable, "-c", code, str(too_few)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said, left = done.stdout.splitlines()
    assert said == "Too many open files"
    assert left == "[] None"
