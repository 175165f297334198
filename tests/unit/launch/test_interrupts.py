from __future__ import annotations

import pickle
import signal
import traceback

import pytest

from notebook_accel.errors import RunInterrupted
from notebook_accel.launch.interrupts import CellInterrupted, interrupts_held


def interrupted() -> CellInterrupted:
    error = RunInterrupted("train was interrupted", "hint", {0: "in train (cell, line 2)", 1: "had returned"})
    error.result = object()
    return CellInterrupted(error)


LINES = [
    "KeyboardInterrupt: train was interrupted",
    "  rank 0: in train (cell, line 2)",
    "  rank 1: had returned",
]


def test_an_interrupted_cell_shows_where_each_rank_was_and_no_frames():
    with pytest.raises(KeyboardInterrupt) as caught:
        raise interrupted()
    assert caught.value._render_traceback_() == LINES
    assert traceback.format_exception_only(caught.value) == ["\n".join(LINES) + "\n"]
    assert caught.value.places[1] == "had returned"
    assert caught.value.result is not None


def test_it_travels_as_the_plain_one():
    copy = pickle.loads(pickle.dumps(interrupted()))
    assert type(copy) is KeyboardInterrupt
    assert str(copy).splitlines()[1:] == LINES[1:]


def test_a_held_interrupt_takes_effect_at_the_end_of_the_block():
    steps = []

    def hold() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            steps.append("whole")
        steps.append("never")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            hold()
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["whole"]
