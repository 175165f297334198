"""Threads that look at the hardware again and again while a picker is shown."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress

from notebook_accel.launch.bell import Flag

_MOST_AT_A_TIME = 3  # of those shown last; a cell that is run again leaves its picker behind


class Refreshing:
    """Calls a function every few seconds, in a thread of its own, until it is stopped or the function says so.

    Args:
        refresh: gives whether to go on; what it raises ends it.
        interval_seconds: between two calls.
    """

    def __init__(self, refresh: Callable[[], bool], interval_seconds: float = 2.0) -> None:
        self._refresh = refresh
        self._interval_seconds = interval_seconds
        self._stop = Flag()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    def start(self) -> None:
        """Begin, unless it goes on."""
        if self.is_running:
            return
        self._stop = Flag()
        context = contextvars.copy_context()  # what is sent belongs to the cell that shows the picker
        self._thread = threading.Thread(
            target=context.run, args=(self._repeat, self._stop), name="notebook_accel-picker", daemon=True
        )
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End it, and wait for that."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    def pause(self) -> None:
        """End it without waiting for that."""
        self._stop.set()

    def _repeat(self, stop: Flag) -> None:
        with suppress(Exception):  # the kernel ends, or somebody has closed all widgets
            while not stop.wait(self._interval_seconds):
                if not self._refresh():
                    return


class LatestFew:
    """Lets those that were started last go on, and pauses those before."""

    def __init__(self, most: int = _MOST_AT_A_TIME) -> None:
        self._most = most
        self._running: list[Refreshing] = []
        self._lock = threading.Lock()

    def start(self, refreshing: Refreshing) -> None:
        """Start one."""
        with self._lock:
            self._running = [each for each in self._running if each is not refreshing and each.is_running]
            self._running.append(refreshing)
            old, self._running = self._running[: -self._most], self._running[-self._most :]
        for each in old:
            each.pause()
        refreshing.start()

    def stop(self, refreshing: Refreshing) -> None:
        """Stop one."""
        with self._lock:
            self._running = [each for each in self._running if each is not refreshing]
        refreshing.stop()


latest_few = LatestFew()
