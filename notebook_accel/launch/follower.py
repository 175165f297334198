"""The one thread that reads what a run's ranks and its supervisor say, from start to end."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from notebook_accel.errors import LaunchError
from notebook_accel.launch.hangs import HangWatch
from notebook_accel.launch.metrics import Entry
from notebook_accel.launch.output import RankOutput
from notebook_accel.launch.rank_facts import RankFacts
from notebook_accel.launch.screen import Screen, Source
from notebook_accel.launch.verdict import RankReport
from notebook_accel.wire import frames
from notebook_accel.wire.control import Interrupted, RankExited, Stacks, Supervising, SupervisorFailed
from notebook_accel.wire.events import Cleared, Displayed, Finished, Logged, Progress, Started

_CHUNK_BYTES = 1 << 16
_TRICKLE_BYTES = 1 << 14
_GATHERING_SECONDS = 0.01
_CHATTER_SECONDS = 0.03  # that metrics and bars wait, so that each does not cost a wake-up here and in the rank
_PATIENCE_SECONDS = 0.2  # until the beginning of a line is shown without its end


class KernelEnds:
    """The kernel's ends of the channels of one rank.

    Attributes:
        chatters: whether it said last what can wait, metrics or bars, and has no more to say.

    Args:
        source: the rank, as the screen knows it.
        output: read end of its output pipe.
        events: our end of its event socket.
        result_file: the file that its value will lie in.
        is_shown: whether what it prints and shows goes on the screen.
    """

    def __init__(
        self, source: Source, output: int, events: socket.socket, result_file: int, *, is_shown: bool = True
    ) -> None:
        self.report = RankReport(source.rank)
        self.output = RankOutput()
        self.logged: list[Entry] = []
        self.pid: int | None = None
        self._bars: dict[int, Progress] = {}  # those that have not ended
        self._last_bar: Progress | None = None
        self.output_end = output
        self.events = events
        self.result_file = result_file
        self._source = source
        self._is_shown = is_shown
        self._reader = frames.FrameReader()
        self._shown_at = 0.0
        self.chatters = False
        os.set_blocking(output, False)
        events.setblocking(False)

    def read_output(self, screen: Screen) -> bool:
        """Read what is there and show it; False at the end of the stream."""
        data = os.read(self.output_end, _CHUNK_BYTES)
        text = self.output.add(data)
        if text:
            self._show(text, screen)
        return bool(data)

    def _show(self, text: str, screen: Screen) -> None:
        self._shown_at = time.monotonic()
        if self._is_shown and text:
            screen.put(text, self._source)

    def show_unfinished(self, screen: Screen) -> None:
        """Show the beginning of a line that has waited for its end."""
        if self.output.is_waiting and time.monotonic() - self._shown_at >= _PATIENCE_SECONDS:
            self._show(self.output.take_unfinished(), screen)

    def read_events(self, screen: Screen) -> bool:
        """Take in what the rank says; False at the end of the stream."""
        try:
            data = self.events.recv(_CHUNK_BYTES)
        except ConnectionError:
            return False
        self.chatters = 0 < len(data) < _CHUNK_BYTES
        for event in self._reader.feed(data):
            self.chatters = self.chatters and isinstance(event, (Logged, Progress))
            if isinstance(event, Finished):
                self.report.outcome = event.outcome
            elif isinstance(event, Logged):
                self.logged.append(Entry(event.rank, event.values, event.step))
            elif isinstance(event, Progress):
                self._take_progress(event, screen)
            elif isinstance(event, Started):
                self.pid = event.pid
            elif self._is_shown and isinstance(event, (Displayed, Cleared)):
                self._show(self.output.take_unfinished(), screen)
                screen.put_rich(event, self._source)
        return bool(data)

    def _take_progress(self, event: Progress, screen: Screen) -> None:
        self._last_bar = event
        if event.closed:
            self._bars.pop(event.bar, None)
        else:
            self._bars[event.bar] = event
        if self._is_shown:
            screen.put_progress(event, self._source)

    def facts(self) -> RankFacts:
        """Say what is known of the rank by now; for any thread."""
        with suppress(RuntimeError, ValueError):  # a bar has just begun or ended
            return RankFacts(self.pid, self.report.exited, self.output, self.logged, self._bars[max(self._bars)])
        return RankFacts(self.pid, self.report.exited, self.output, self.logged, self._last_bar)

    def read_rest(self, screen: Screen) -> None:
        """Read all there is in the channels of a rank that has ended."""
        for read in (self.read_events, self.read_output):
            with suppress(BlockingIOError):
                while read(screen):
                    pass
        self._show(self.output.finish(), screen)

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
        watch: told when something is heard, and woken when it wants to be.
        on_stacks: called in the follower's thread with where the ranks are.
        on_end: called in the follower's thread once everything has been read.

    Attributes:
        problem: what broke in the machinery, if something did.
        interrupted: what the supervisor said when it interrupted the run, if it did.
        has_begun: whether the supervisor has said that it is there.
    """

    def __init__(
        self,
        control: socket.socket,
        ranks: list[KernelEnds],
        screen: Screen,
        *,
        watch: HangWatch,
        on_stacks: Callable[[Stacks], None],
        on_end: Callable[[], None],
    ) -> None:
        self.problem: LaunchError | None = None
        self.interrupted: Interrupted | None = None
        self.has_begun = False
        self._screen = screen
        self._control = control
        self._ranks = ranks
        self._watch = watch
        self._on_stacks = on_stacks
        self._on_end = on_end
        self._reader = frames.FrameReader()
        self._everything = selectors.DefaultSelector()
        self._messages = selectors.DefaultSelector()  # what cannot wait
        # The same without the ranks' events, for moments in which those can wait.
        self._everything_else = selectors.DefaultSelector()
        self._orders = selectors.DefaultSelector()
        self._events_wait_until = 0.0
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
                self._read_ready()
                self._watch.look()
            for rank in self._ranks:
                rank.read_rest(self._screen)
            self._screen.end_line()
        except Exception as error:  # noqa: BLE001 - a waiting cell must hear of it
            self.problem = LaunchError(f"reading from the ranks failed: {error!r}", "run the cell again")
        finally:
            for selector in self._selectors():
                selector.close()
            self._on_end()

    def _selectors(self) -> tuple[selectors.BaseSelector, ...]:
        return self._everything, self._messages, self._everything_else, self._orders

    def _register(self) -> None:
        for selector in self._selectors():
            selector.register(self._control, selectors.EVENT_READ, self._read_control)
        for rank in self._ranks:
            for selector in (self._everything, self._messages):
                selector.register(rank.events, selectors.EVENT_READ, rank.read_events)
            for selector in (self._everything, self._everything_else):
                selector.register(rank.output_end, selectors.EVENT_READ, rank.read_output)

    def _read_ready(self) -> None:
        """Wait until somebody says something, and read it; messages first.

        What a rank has displayed was sent after what it had printed before had been read here. Output that trickles is
        left to gather for a moment: to wake up for each line costs twice as much, here and in the ranks. So are metrics
        and bars.
        """
        seconds = self._seconds_to_next_look()
        pause_seconds = self._events_wait_until - time.monotonic()
        if pause_seconds > 0:
            seconds = pause_seconds if seconds is None else min(seconds, pause_seconds)
        waiting = self._everything_else if pause_seconds > 0 else self._everything
        ready = [key for key, _ in waiting.select(seconds)]
        if any(key.fileobj is not self._control for key in ready):
            self._watch.heard()
        self._read([key for key in ready if not isinstance(key.fileobj, int)])
        bytes_before = self._output_bytes()
        self._read([key for key in ready if isinstance(key.fileobj, int)])
        for rank in self._ranks:
            rank.show_unfinished(self._screen)
        if 0 < self._output_bytes() - bytes_before < _TRICKLE_BYTES and self._running:
            messages = self._messages if time.monotonic() >= self._events_wait_until else self._orders
            self._read([key for key, _ in messages.select(_GATHERING_SECONDS)])

    def _seconds_to_next_look(self) -> float | None:
        """Give how long to wait when nobody says anything."""
        waits = any(rank.output.is_waiting for rank in self._ranks)
        looks = [_PATIENCE_SECONDS if waits else None, self._watch.seconds_to_next_look()]
        return min((seconds for seconds in looks if seconds is not None), default=None)

    def _read(self, keys: list[selectors.SelectorKey]) -> None:
        for key in keys:
            if not key.data(self._screen):
                for selector in self._selectors():
                    if key.fileobj in selector.get_map():
                        selector.unregister(key.fileobj)
        spoke = [rank for rank in self._ranks if any(key.fileobj is rank.events for key in keys)]
        if spoke and all(rank.chatters for rank in spoke):
            self._events_wait_until = time.monotonic() + _CHATTER_SECONDS

    def _output_bytes(self) -> int:
        return sum(rank.output.total_bytes for rank in self._ranks)

    def _read_control(self, _screen: Screen) -> bool:
        try:
            data = self._control.recv(_CHUNK_BYTES)
        except ConnectionError:
            data = b""
        for message in self._reader.feed(data):
            if isinstance(message, RankExited):
                self._ranks[message.rank].report.exited = message
                self._running -= 1
                self._watch.heard()
            elif isinstance(message, Stacks):
                self._on_stacks(message)
            elif isinstance(message, Interrupted):
                self.interrupted = message
                self._watch.stop()
            elif isinstance(message, Supervising):
                self.has_begun = True
            elif isinstance(message, SupervisorFailed):
                what = f"the run's supervisor failed:\n{message.traceback}"
                self.problem = LaunchError(what, "run the cell again; every rank has been ended")
        if not data and self._running and self.problem is None:
            what = "the run's supervisor ended before its ranks did"
            self.problem = LaunchError(what, "something killed it; run the cell again, no rank is left")
        return bool(data)
