"""Wait, and time, by a clock that stands still while the machine has no time for this process.

Where every core is taken a process may not run for seconds; nothing that is tested here is the cause.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_SECONDS, MOST_TICK_SECONDS = 0.01, 0.1


class Stopwatch:
    """Counts the seconds from tick to tick, but no more of them than a tick takes where the machine is free."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last = time.monotonic()

    def tick(self) -> None:
        """Count the time since the last tick."""
        now = time.monotonic()
        self.seconds += min(now - self._last, MOST_TICK_SECONDS)
        self._last = now


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Give a stopwatch that ticks by itself."""
    watch, done = Stopwatch(), threading.Event()

    def count() -> None:
        while not done.wait(TICK_SECONDS):
            watch.tick()

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield watch
    finally:
        done.set()
        thread.join()


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Look again until ``condition`` holds or the time is up."""
    watch = Stopwatch()
    while not condition():
        watch.tick()
        if watch.seconds > seconds:
            return False
        time.sleep(TICK_SECONDS)
    return True
