from __future__ import annotations

import os
import threading

import pytest

from notebook_accel.errors import PayloadError
from notebook_accel.launch.job import Call, make_job
from notebook_accel.wire import parcel, pickling

LOCK = threading.Lock()


def by_value(function):
    """Let cloudpickle treat it as a cell's function."""
    function.__module__ = "__main__"
    return function


def test_a_call_travels():
    job = make_job(Call(by_value(lambda x, *, y: x + y), (1,), {"y": 2}))
    function, args, kwargs = pickling.loads(parcel.read(job.file))
    os.close(job.file)
    assert function(*args, **kwargs) == 3
    assert job.sources == {}, "this file's source lies on disk"


def uses_lock():
    with LOCK:
        return 1


def closes_over(value):
    return lambda: value


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (Call(max, (1, LOCK)), r"args\[1\] \(lock\)"),
        (Call(max, (), {"key": LOCK}), r"kwargs\['key'\] \(lock\)"),
        (Call(by_value(uses_lock)), r"the variable 'LOCK' \(lock\)"),
        (Call(by_value(closes_over(LOCK))), r"the variable 'value' \(lock\)"),
    ],
)
def test_what_cannot_travel_is_named(call: Call, culprit: str):
    with pytest.raises(PayloadError, match=culprit) as caught:
        make_job(call)
    assert "TypeError: cannot pickle" in str(caught.value)
    assert "inside the function" in caught.value.hint


def test_names():
    assert Call(max).name == "max"
    assert Call(threading.Event()).name == "Event"  # type: ignore[arg-type]
