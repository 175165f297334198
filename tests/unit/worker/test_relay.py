from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

from notebook_accel.wire.events import Event, Logged
from notebook_accel.wire.frames import FrameReader
from notebook_accel.worker.relay import Relay


@pytest.fixture
def ends() -> Iterator[tuple[Relay, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Relay(theirs), ours


def read(end: socket.socket, count: int) -> list[Event]:
    reader, events = FrameReader(), []
    while len(events) < count:
        events += reader.feed(end.recv(1 << 16))
    return events


def test_events_of_several_threads_arrive_whole(ends: tuple[Relay, socket.socket]):
    relay, end = ends
    many = [
        threading.Thread(target=lambda rank=rank: [relay.send(event(rank, step)) for step in range(200)])
        for rank in range(4)
    ]
    for thread in many:
        thread.start()
    events = read(end, 800)
    for thread in many:
        thread.join()
    for rank in range(4):
        assert [one.step for one in events if one.rank == rank] == list(range(200))


def event(rank: int, step: int) -> Logged:
    return Logged(rank, {"text": "x" * 500}, step)


def test_an_interrupt_does_not_cut_an_event(ends: tuple[Relay, socket.socket]):
    relay, end = ends
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    large = Logged(0, {"text": "x" * (4 << 20)}, 1)
    got: list[Event] = []

    def interrupt_and_read() -> None:
        end.recv(1, socket.MSG_PEEK)  # the event has begun, and does not fit into the socket
        os.kill(os.getpid(), signal.SIGINT)
        got.extend(read(end, 1))

    interrupter = threading.Thread(target=interrupt_and_read)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            relay.send(large)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        interrupter.join()
    assert got == [large]


def test_a_kernel_that_is_gone_is_no_error(ends: tuple[Relay, socket.socket]):
    relay, end = ends
    end.close()
    relay.send(event(0, 0))
    assert relay.is_open


def test_a_fork_does_not_write_into_its_parents_events(ends: tuple[Relay, socket.socket]):
    relay, _ = ends
    pid = os.fork()
    if pid == 0:
        os._exit(0 if not relay.is_open else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
