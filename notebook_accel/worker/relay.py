"""The way of a rank's bars, displays and metrics to the kernel, beside its output."""

from __future__ import annotations

import array
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from notebook_accel.wire import frames
from notebook_accel.wire.events import Event

_AT_ONCE_BYTES = 4096 if sys.platform == "linux" else 0  # a local stream takes so little whole, or not at all
_DRAIN_SECONDS = 2.0  # a kernel that is busy for longer gets the display before the text


class Relay:
    """Sends events from any thread of this process, whole and one at a time.

    Args:
        events: this rank's end of its event socket.
    """

    def __init__(self, events: socket.socket) -> None:
        self._events = events
        self._lock = threading.RLock()
        self._pid = os.getpid()

    @property
    def is_open(self) -> bool:
        """False in a process that was forked from the rank: two writers would cut each other's messages."""
        return os.getpid() == self._pid

    def send(self, event: Event) -> None:
        """Send an event; an interrupt waits until all of it is on its way."""
        data = frames.encode(event)
        if len(data) <= _AT_ONCE_BYTES and self._sent_at_once(data):
            return
        with _interrupts_deferred(), self._lock:
            try:
                self._events.sendall(data)
            except OSError:
                pass  # the kernel is gone, and so is this rank in a moment

    def _sent_at_once(self, data: bytes) -> bool:
        """Send without waiting, which no interrupt can cut and costs a third; False where there is no room."""
        with self._lock:
            try:
                self._events.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                pass  # the kernel is gone, and so is this rank in a moment
        return True

    def send_after_output(self, event: Event) -> None:
        """Send an event that must not be shown before what was printed until now."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # the function has closed it
                continue
        deadline = time.monotonic() + _DRAIN_SECONDS
        while _unread_bytes(1) and time.monotonic() < deadline:
            time.sleep(0.0005)  # the kernel reads text and events in turn: it has the text now, or within this
        self.send(event)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Let an interrupt that comes within the block take effect behind it; only the main thread gets any."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(*came[0])


def _unread_bytes(pipe: int) -> int:
    """Count the bytes in a pipe that nobody has read; zero where the function has put something else there."""
    try:
        import fcntl  # noqa: PLC0415 - not on every system, as pipes that can be asked are not
        import termios  # noqa: PLC0415

        count = array.array("i", [0])
        fcntl.ioctl(pipe, termios.FIONREAD, count)
    except (ImportError, OSError):
        return 0
    return count[0]
