"""The one thread that reads what a run's ranks and its supervisor say, from start to end."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable

from notebook_accel.errors import LaunchError
from notebook_accel.launch.output import RankOutput, Screen
from notebook_accel.launch.verdict import RankReport
from notebook_accel.wire import frames
from notebook_accel.wire.control import Interrupted, RankExited, SupervisorFailed
from notebook_accel.wire.events import Finished

_CHUNK_BYTES = 1 << 16


class KernelEnds:
    """The kernel's ends of the channels of one rank.

    Args:
        rank: which rank.
        label: what stands before its lines on the screen.
        output: read end of its output pipe.
        events: our end of its event socket.
        result_file: the file that its value will lie in.
    """

    def __init__(self, rank: int, label: str, output: int, events: socket.socket, result_file: int) -> None:
        self.report = RankReport(rank)
        self.output = RankOutput(label)
        self.output_end = output
        self.events = events
        self.result_file = result_file
        self._reader = frames.FrameReader()
        os.set_blocking(output, False)
        events.setblocking(False)

    def read_output(self) -> str | None:
        """Read what is there; None at the end of the stream."""
        data = os.read(self.output_end, _CHUNK_BYTES)
        return self.output.add(data) if data else None

    def read_events(self) -> bool:
        """Take in what the rank says; False at the end of the stream."""
        try:
            data = self.events.recv(_CHUNK_BYTES)
        except ConnectionError:
            return False
        for event in self._reader.feed(data):
            if isinstance(event, Finished):
                self.report.outcome = event.outcome
        return bool(data)

    def close(self) -> None:
        """Close all ends."""
        os.close(self.output_end)
        self.events.close()
        os.close(self.result_file)


class Follower:
    """Follows one run to its end.

    Args:
        control: the socket to the run's supervisor.
        ranks: our ends, in the order of the ranks.
        screen: where what the ranks print goes.
        on_end: called in the follower's thread once everything has been read.

    Attributes:
        problem: what broke in the machinery, if something did.
        interrupted: what the supervisor said when it interrupted the run, if it did.
    """

    def __init__(
        self, control: socket.socket, ranks: list[KernelEnds], screen: Screen, on_end: Callable[[], None]
    ) -> None:
        self.problem: LaunchError | None = None
        self.interrupted: Interrupted | None = None
        self._screen = screen
        self._control = control
        self._ranks = ranks
        self._on_end = on_end
        self._reader = frames.FrameReader()
        self._selector = selectors.DefaultSelector()
        self._running = len(ranks)
        self._thread = threading.Thread(target=self._follow, name="notebook_accel-follower", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end, unless this is it."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _follow(self) -> None:
        try:
            self._register()
            while self._running and self.problem is None:
                for key, _ in self._selector.select():
                    if not key.data():
                        self._selector.unregister(key.fileobj)
            self._read_rest()
        except Exception as error:  # noqa: BLE001 - a waiting cell must hear of it
            self.problem = LaunchError(f"reading from the ranks failed: {error!r}", "run the cell again")
        finally:
            self._selector.close()
            self._on_end()

    def _register(self) -> None:
        self._selector.register(self._control, selectors.EVENT_READ, self._read_control)
        for rank in self._ranks:
            self._selector.register(rank.output_end, selectors.EVENT_READ, lambda rank=rank: self._show(rank))
            self._selector.register(rank.events, selectors.EVENT_READ, rank.read_events)

    def _show(self, rank: KernelEnds) -> bool:
        text = rank.read_output()
        if text:
            self._screen.put(text)
        return text is not None

    def _read_control(self) -> bool:
        try:
            data = self._control.recv(_CHUNK_BYTES)
        except ConnectionError:
            data = b""
        for message in self._reader.feed(data):
            if isinstance(message, RankExited):
                self._ranks[message.rank].report.exited = message
                self._running -= 1
            elif isinstance(message, Interrupted):
                self.interrupted = message
            elif isinstance(message, SupervisorFailed):
                what = f"the run's supervisor failed:\n{message.traceback}"
                self.problem = LaunchError(what, "run the cell again; every rank has been ended")
        if not data and self._running and self.problem is None:
            what = "the run's supervisor ended before its ranks did"
            self.problem = LaunchError(what, "something killed it; run the cell again, no rank is left")
        return bool(data)

    def _read_rest(self) -> None:
        """Every rank has been reaped: what is in the channels now is all there will be."""
        for rank in self._ranks:
            while True:
                try:
                    if not rank.read_events():
                        break
                except BlockingIOError:
                    break
            while True:
                try:
                    if not self._show(rank):
                        break
                except BlockingIOError:
                    break
            rest = rank.output.finish()
            if rest:
                self._screen.put(rest)
