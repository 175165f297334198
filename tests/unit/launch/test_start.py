from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")

from notebook_accel import notebook_launcher
from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError, PayloadError, RankFailed
from notebook_accel.launch import start
from notebook_accel.launch.job import Call
from notebook_accel.launch.run import Run
from tests.unit.launch.runs import background, ended_runs, gpus, helper, until_said

__all__ = ["ended_runs", "helper"]


@pytest.fixture
def gate():
    """A named pipe at which runs wait until a test opens it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate"
        os.mkfifo(path)
        yield str(path)


@pytest.fixture(autouse=True)
def four_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(start, "probe", gpus(4))


def by_value(function):
    """Let it travel as a cell's function does."""
    function.__module__ = "__main__"
    return function


@by_value
def seen(gate: str | None = None) -> str:
    """Give the devices that the rank sees; it does not touch them."""
    print("ready", flush=True)
    if gate is not None:
        with open(gate) as file:
            file.read()
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_runs_on_devices_of_their_own_go_on_side_by_side(gate: str):
    first = background(seen, gate, devices=(0, 2), num_processes=None)
    until_said(first, "ready", 2)
    second = background(seen, devices="auto", num_processes=2)
    assert list(second.result()) == ["1,3"] * 2, "it takes what is free"
    assert first.state == "running"
    third = background(seen, devices=(3,))
    assert third.result().value == "3"
    first.stop()
    assert background(seen, devices=(0,)).result().value == "0", "an ended run holds nothing"


def test_a_device_that_is_held_is_refused_and_free_again_after_the_end(gate: str):
    run = background(seen, gate, devices=(1, 2), num_processes=None)
    until_said(run, "ready", 2)
    assert start.held_devices() == {"1", "2"}
    for config in ({"devices": (2, 3)}, {"devices": "auto", "num_processes": 3}):
        with pytest.raises(ConfigError, match=r"GPU 2 by the run of seen \(started \d+ s ago\)"):
            background(seen, **{"num_processes": None, **config})
    assert start.plan_of(RunConfig()).world_size == 2
    run.kill()
    run.wait()
    assert start.held_devices() == frozenset()
    assert background(seen, devices=(2,)).result().value == "2"


def test_the_cpu_is_nobodys(gate: str):
    held = background(seen, gate, devices=(0, 1, 2, 3), num_processes=None)
    until_said(held, "ready", 4)
    assert background(seen, devices="cpu").result().value == ""
    held.stop()


def test_a_launch_that_fails_holds_nothing():
    with pytest.raises(PayloadError):
        background(by_value(lambda lock: lock), threading.Lock(), devices=(0,))
    assert (start.held_devices(), start.last_run()) == (frozenset(), None)
    run = background(by_value(lambda: 1 / 0), devices=(0,))
    with pytest.raises(RankFailed):
        run.result()
    assert start.held_devices() == frozenset()


def test_launches_from_several_threads_get_devices_of_their_own(gate: str):
    runs: list[Run] = []
    config = RunConfig(num_processes=1)
    threads = [threading.Thread(target=lambda: runs.append(start.launch(config, Call(seen, (gate,))))) for _ in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(ConfigError, match="devices are held"):
        start.launch(config, Call(seen))
    assert sorted(device.index for run in runs for device in run.plan.devices) == [0, 1, 2, 3]
    for run in runs:
        until_said(run, "ready")
    for run in runs:
        run.kill()
        run.wait()


def test_what_was_printed_waits_for_whoever_asks_later(capsys: pytest.CaptureFixture[str]):
    run = notebook_launcher(seen, num_processes=1, devices="cpu", block=False)
    run.wait()
    assert capsys.readouterr().out == "notebook_accel: 1 CPU process\n"
    assert start.last_run() is run
    run.show()
    assert capsys.readouterr().out == "ready\n"
