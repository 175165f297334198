from __future__ import annotations

import socket
import subprocess
import sys
import typing

import pytest

from notebook_accel.wire import events, frames
from notebook_accel.wire.events import Event, Finished, Started
from notebook_accel.wire.outcome import Failure, Raised, Returned, Unreturnable

FAILURE = Failure(rank=3, headline="x", hint="y", at_seconds=0.5, traceback="Traceback", exception_pickle=b"\0")
EVENTS = [Started(3, 4711), *(Finished(3, outcome) for outcome in (Returned("1"), Unreturnable("a"), Raised(FAILURE)))]


def test_events_arrive_as_they_were_sent():
    left, right = socket.socketpair()
    with left, right:
        for event in EVENTS:
            frames.send(left, event)
        assert list(frames.FrameReader().feed(right.recv(1 << 16))) == EVENTS


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_of_the_named_kind_and_says_whose_it_is(event: Event):
    assert type(event) in typing.get_args(events.Event)
    assert event.rank == 3
    assert event != Started(2, 4711)


def test_the_kernel_can_read_events_without_torch_or_cloudpickle():
    code = "import sys, notebook_accel.wire.events; print({'torch', 'cloudpickle', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
