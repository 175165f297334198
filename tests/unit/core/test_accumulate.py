from __future__ import annotations

import pytest

from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.epoch import EpochLedger, EpochWatch, Round
from notebook_accel.core.plugins import GradientAccumulationPlugin


def steps_of(batches: int | None, steps: int) -> list[tuple[bool, int]]:
    watch = EpochWatch()
    window = GradientWindow(GradientAccumulationPlugin(num_steps=steps), watch)
    ledger = EpochLedger(watch)
    for _ in range(batches or 0):
        ledger.announce(Round((1,), (1,)))
    seen = []
    for _ in range(batches or 6):
        if batches:
            ledger.advance()
        window.next_batch()
        seen.append((window.is_step, window.size))
    return seen


@pytest.mark.parametrize("batches", [6, None])
def test_full_windows(batches: int | None):
    assert steps_of(batches, 3) == [(False, 3), (False, 3), (True, 3)] * 2


def test_a_short_last_window_is_as_long_as_what_is_left():
    assert steps_of(5, 3) == [(False, 3), (False, 3), (True, 3), (False, 2), (True, 2)]
    assert steps_of(4, 3)[-1] == (True, 1)
    assert steps_of(1, 4) == [(True, 1)]


def test_one_step_is_every_batch():
    assert steps_of(3, 1) == [(True, 1)] * 3


def test_a_loop_left_early_does_not_hold_the_next_one_up():
    watch = EpochWatch()
    window = GradientWindow(GradientAccumulationPlugin(num_steps=4), watch)
    for batches in (4, 2):
        ledger = EpochLedger(watch)
        for _ in range(batches):
            ledger.announce(Round((1,), (1,)))
        for _ in range(1 if batches == 4 else 2):
            ledger.advance()
            window.next_batch()
        ledger.close()
    assert window.is_step, "a loader's last batch always steps"
