"""The stop ladder: ranks are ended step by step, and each step is for those that the one before has not reached.

A signal of Python's is heard between two lines of Python. A rank that has not heard it soon is in native code: it
waits for another rank, and can be woken, or it computes, and can only be ended.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from notebook_accel.worker import system
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import WAKE

WAKE_AFTER_SECONDS = 0.4
TERMINATE_AFTER_SECONDS = 0.7
KILL_SILENT_AFTER_SECONDS = 1.0  # whatever became of SIGTERM: the function may have set a handler of its own
LEAST_PAUSE_SECONDS = 0.3  # between two steps, also where this process was late for the first
KILL_AFTER_SECONDS = 5.0  # the rank has raised KeyboardInterrupt and may clean up until then


@dataclass(frozen=True)
class Rank:
    """A rank as its parent sees it.

    Attributes:
        number: its rank.
        pid: its process.
        waker: write end of the pipe on which its listening thread is told what to do; it does not block.
    """

    number: int
    pid: int
    waker: int

    def tell(self, order: bytes) -> None:
        """Tell its listening thread what to do."""
        try:
            os.write(self.waker, order)
        except (BrokenPipeError, BlockingIOError):
            pass  # it has just ended, or native code has kept all of its threads from running for long


class _Step(NamedTuple):
    after_seconds: float
    silent_only: bool
    take: Callable[[Rank], None]


class Ladder:
    """Ends the ranks of one run.

    Args:
        flags: what the ranks have said of themselves.
        clock: gives the time in seconds.

    Attributes:
        told: the ranks that were told to end before they had failed.
        doomed: the processes that were ended by force.
        begun_at: when the ranks were interrupted, None if they were not.
    """

    def __init__(self, flags: Flags, clock: Callable[[], float] = time.monotonic) -> None:
        self.told: set[int] = set()
        self.doomed: set[int] = set()
        self._flags = flags
        self._clock = clock
        self.begun_at: float | None = None
        self._paused_until = 0.0
        self._steps = [
            _Step(WAKE_AFTER_SECONDS, True, _wake),
            _Step(TERMINATE_AFTER_SECONDS, True, self._terminate),
            _Step(KILL_SILENT_AFTER_SECONDS, True, self.kill),
            _Step(KILL_AFTER_SECONDS, False, self.kill),
        ]

    @property
    def begun(self) -> bool:
        """Whether the ranks were interrupted."""
        return self.begun_at is not None

    def begin(self, ranks: Iterable[Rank]) -> None:
        """Interrupt those of ``ranks`` whose function has not ended; end those whose function has not begun. Once."""
        self.begun_at = self._clock()
        for rank in ranks:
            if not self._flags.listening(rank.number):
                self.kill(rank)  # it imports torch, and has nothing to lose
            elif not self._flags.is_over(rank.number):
                self.told.add(rank.number)
                self._flags.order_interrupt(rank.number)
                os.kill(rank.pid, signal.SIGINT)

    def climb(self, ranks: Iterable[Rank]) -> None:
        """Take the next step if it is due, for those of ``ranks`` that need it."""
        if self.seconds_to_next_step() != 0.0:
            return
        step = self._steps.pop(0)
        self._paused_until = self._clock() + LEAST_PAUSE_SECONDS
        for rank in ranks:
            if not (step.silent_only and self._flags.heard(rank.number)):
                step.take(rank)

    def seconds_to_next_step(self) -> float | None:
        """Give how long to wait for the next step, None when there is none."""
        if self.begun_at is None or not self._steps:
            return None
        due_at = max(self.begun_at + self._steps[0].after_seconds, self._paused_until)
        return max(0.0, due_at - self._clock())

    def kill(self, rank: Rank) -> None:
        """End a rank and its process group now."""
        if not self._flags.failed(rank.number):
            self.told.add(rank.number)
        self.doomed |= system.group_members(rank.pid)
        system.kill_group(rank.pid, signal.SIGKILL)
        os.kill(rank.pid, signal.SIGKILL)  # it may not lead its group yet

    def _terminate(self, rank: Rank) -> None:
        """End a rank by a signal whose default action needs no Python; its group follows when it is reaped."""
        self.doomed |= system.group_members(rank.pid)
        os.kill(rank.pid, signal.SIGTERM)


def _wake(rank: Rank) -> None:
    rank.tell(WAKE)
