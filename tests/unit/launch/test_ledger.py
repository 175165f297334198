from __future__ import annotations

import re

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.inline import InlineRun
from notebook_accel.launch.job import Call
from notebook_accel.launch.ledger import Ledger
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.run import Run
from notebook_accel.launch.screen import Screen


class OpenRun(Run[int]):
    """A run that ends when it is told to."""

    def wait(self, timeout_seconds=None):
        return self._ended.wait(timeout_seconds)

    def result(self):
        raise NotImplementedError

    def logs(self, rank=0):
        return ""

    def rank_facts(self):
        return []

    def notices(self):
        return []

    def interrupt(self):
        self._finish()

    kill = request_stop = interrupt


def open_run(name: str, gpus: tuple[int, ...] = (), started_at: float | None = None) -> OpenRun:
    import time

    plan = make_plan(RunConfig(devices=gpus or "cpu"), Inventory.fake(gpus=4))
    return OpenRun(plan, name, Screen(), time.monotonic() if started_at is None else started_at)


def test_runs_hold_their_devices_until_they_end():
    ledger = Ledger()
    assert (ledger.running(), ledger.holders(), ledger.last) == ([], {}, None)
    first, second, third = open_run("first", (0, 2)), open_run("second"), open_run("third", (3,))
    for run in (first, second, third):
        ledger.enter(run)
    assert ledger.running() == [first, second, third]
    assert ledger.last is third
    assert sorted(ledger.holders()) == ["0", "2", "3"]
    first.interrupt()
    assert ledger.running() == [second, third]
    assert sorted(ledger.holders()) == ["3"]
    third.interrupt()
    assert (ledger.running(), ledger.holders(), ledger.last) == ([second], {}, third)


def test_holders_are_named_with_how_long_they_have_held():
    import time

    ledger = Ledger()
    ledger.enter(open_run("train", (1,), time.monotonic() - 90))
    (words,) = ledger.holders().values()
    assert re.fullmatch(r"the run of train \(started 9[0-2] s ago\)", words)


def test_a_run_that_has_ended_by_then_holds_nothing():
    pytest.importorskip("torch")
    from notebook_accel.launch.spawner import Attempt

    ledger = Ledger()
    plan = make_plan(RunConfig(start_method="inline", devices="cpu"), Inventory.fake())
    run = InlineRun(plan, Call(int), Attempt())
    ledger.enter(run)
    assert (ledger.running(), ledger.last) == ([], run)
