"""Waiting that an interrupt may cut short anywhere.

``threading.Event`` and ``threading.Condition`` take and give back a lock in Python code, and an interrupt can be raised
there between the two: the lock then stays taken, and whoever comes to it next waits for ever. Here each wait has a lock
of its own, which nobody else takes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class Bell:
    """Wakes everybody who waits for something to become true.

    Example:
        >>> bell, come = Bell(), []
        >>> bell.wait_for(lambda: come, timeout_seconds=0.01)
        False
        >>> come.append("a visitor")
        >>> bell.ring()
        >>> bell.wait_for(lambda: come)
        True
    """

    def __init__(self) -> None:
        self._waiting: deque[threading.Lock] = deque()

    def wait_for(self, has_come: Callable[[], object], timeout_seconds: float | None = None) -> bool:
        """Wait until it is true, at most so long; give whether it is.

        Args:
            has_come: looks, without taking a lock.
            timeout_seconds: None waits for ever.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not has_come():
            left_seconds = -1.0 if until is None else until - time.monotonic()
            if until is not None and left_seconds <= 0:
                return False
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
            try:
                if not has_come():  # it may have come before there was somebody to wake
                    mine.acquire(timeout=left_seconds)
            finally:
                with suppress(ValueError):  # the bell was rung
                    self._waiting.remove(mine)
        return True

    def ring(self) -> None:
        """Let everybody who waits look again."""
        with suppress(IndexError):
            while True:
                self._waiting.popleft().release()


class Flag:
    """What ``threading.Event`` is, without a lock that an interrupt could leave taken.

    Example:
        >>> flag = Flag()
        >>> flag.set()
        >>> flag.wait()
        True
    """

    def __init__(self) -> None:
        self._is_set = False
        self._bell = Bell()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake everybody who waits for it."""
        self._is_set = True
        self._bell.ring()

    def clear(self) -> None:
        """Let it be waited for again."""
        self._is_set = False

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it is set, at most so long; give whether it is."""
        return self._bell.wait_for(self.is_set, timeout_seconds)
