from __future__ import annotations

import os
import signal
import sys
import types

import psutil
import pytest

pytest.importorskip("torch")

from notebook_accel import share
from notebook_accel.config import RunConfig
from notebook_accel.errors import LaunchError, RunInterrupted
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import interpreter
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.run import Run
from notebook_accel.launch.spawn import SpawnSpawner
from tests.unit.launch.runs import open_descriptors


def spawned(function, *args: object, **config: object) -> Run:
    plan = make_plan(
        RunConfig(**{"num_processes": 1, "devices": "cpu", "start_method": "spawn", **config}), Inventory.fake()
    )
    return SpawnSpawner().start(plan, Call(function, args))


def cell(source: str) -> types.ModuleType:
    module = types.ModuleType("__main__")
    exec(compile(source, "<cell 1>", "exec"), module.__dict__)
    return module


def test_ranks_are_fresh_interpreters():
    module = cell(
        "class Point: pass\n"
        "def look(table):\n"
        "    import os, sys, __main__, torch, torch.distributed as dist\n"
        "    dist.init_process_group('gloo')\n"
        "    total = torch.ones(1); dist.all_reduce(total)\n"
        "    dist.destroy_process_group()\n"
        "    print('out')\n"
        "    same = __main__.Point is Point\n"
        "    return sum(table.value), total.item(), 'pytest' in sys.modules, same, os.getcwd()\n"
    )
    with share([1, 2]) as table:
        result = spawned(module.look, table, num_processes=2).result()
    assert list(result) == [(3, 2.0, False, True, os.getcwd())] * 2
    assert result.logs(1) == "out\n"


@pytest.mark.parametrize("broken", ["false", "import"])
def test_a_supervisor_that_cannot_start_is_said_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path, broken: str
):
    if broken == "false":
        monkeypatch.setattr(sys, "executable", "/bin/false")
    else:
        (tmp_path / "pickle.py").write_text("raise ImportError('a broken installation')\n")
        monkeypatch.syspath_prepend(tmp_path)
    before = open_descriptors()
    children = psutil.Process().children()
    with pytest.raises(LaunchError) as caught:
        spawned(int).result()
    assert "exit code 1" in str(caught.value)
    assert ("a broken installation" in str(caught.value)) == (broken == "import")
    assert psutil.Process().children() == children
    del caught
    assert open_descriptors() == before


def test_an_interpreter_that_does_not_exist_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    before = open_descriptors()
    with pytest.raises(LaunchError, match="int could not be started: .*/no/such/python"):
        spawned(int)
    assert open_descriptors() == before


def test_a_killed_supervisor_ends_its_ranks_and_is_said():
    module = cell("def sleep():\n    import time\n    print('ready', flush=True)\n    time.sleep(600)\n")
    run = spawned(module.sleep)
    ranks: list[psutil.Process] = []
    for text in run.output():
        if "ready" in text:
            ranks = psutil.Process(run._parent._process.pid).children()
            os.kill(run._parent._process.pid, signal.SIGKILL)
    with pytest.raises(LaunchError, match=r"supervisor ended before its ranks did\n\(exit code -9\) it said nothing"):
        run.result()
    assert len(ranks) == 1
    assert psutil.wait_procs(ranks, timeout=10)[1] == []


def test_it_can_be_stopped_while_its_interpreters_start():
    run = spawned(cell("def sleep():\n    import time\n    time.sleep(600)\n").sleep)
    run.kill()
    with pytest.raises(RunInterrupted):
        run.result()


def test_the_path_has_no_relative_entries(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    assert interpreter.search_path() == (str(tmp_path), "/elsewhere")
