"""What every way to start ranks has to keep: one body, over each."""

from __future__ import annotations

import os
import threading

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import RankFailed
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.forkserver import ForkserverSpawner
from notebook_accel.launch.inline import InlineSpawner
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.spawner import Run, Spawner

SPAWNERS = {"forkserver": ForkserverSpawner, "inline": InlineSpawner}


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


def run_of_two(function) -> Run:
    plan = make_plan(RunConfig(num_processes=2, devices="cpu"), Inventory.fake())
    return ForkserverSpawner().start(plan, Call(function))


def sleep_for_ever():
    import time

    print("asleep", flush=True)
    time.sleep(600)


@pytest.mark.parametrize("order", ["interrupt", "kill"])
def test_a_run_can_be_ended(order: str):
    run = run_of_two(sleep_for_ever)
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("asleep") == 2:
            assert run.state == "running"
            getattr(run, order)()
    assert run.state == "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run.result()
    assert run.interrupt() is None, "an ended run takes orders without complaint"


def test_a_run_is_followed_from_any_thread():
    run = run_of_two(lambda: 1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(list(run.result())))
    thread.start()
    thread.join()
    assert found == [[1, 1]]
    assert run.notices() == []
