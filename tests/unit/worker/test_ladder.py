from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from notebook_accel.worker.flags import Flags
from notebook_accel.worker.ladder import Ladder, Rank
from tests.unit.worker.forks import in_a_child


def starting(_flags: Flags) -> None:
    """Not have come to the function."""


class Clock:
    """A clock that a test sets."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Stand:
    """One rank on a ladder whose time the test makes."""

    def __init__(self, live: Callable[[Flags], None]) -> None:
        file = Flags.make_file(1)
        self.flags = Flags.of_file(file, 1)
        os.close(file)
        self.clock = Clock()
        self.ladder = Ladder(self.flags, self.clock)
        ready = os.pipe()
        self.waking, waker = os.pipe()

        def be_a_rank() -> None:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, lambda *_: self.flags.take_order(0))
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            if live is not starting:
                self.flags.set_listening(0)
            os.write(ready[1], b"x")
            live(self.flags)
            while True:
                signal.pause()

        self.pid = in_a_child(be_a_rank)
        self.rank = Rank(0, self.pid, waker)
        os.read(ready[0], 1)
        for end in ready:
            os.close(end)
        os.set_blocking(self.waking, False)

    def climb(self, seconds: float) -> None:
        """Let so much time have passed since the interrupt."""
        self.clock.seconds = 100.0 + seconds
        self.ladder.climb([self.rank])

    def was_woken(self) -> bool:
        try:
            return os.read(self.waking, 1) == b"\0"
        except BlockingIOError:
            return False

    def is_alive(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def ended_by(self) -> int:
        return -os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def stands() -> Iterator[Callable[[Callable[[Flags], None]], Stand]]:
    made: list[Stand] = []

    def make(live: Callable[[Flags], None]) -> Stand:
        made.append(Stand(live))
        return made[-1]

    yield make
    for stand in made:
        os.close(stand.waking)
        os.close(stand.rank.waker)
        vars(stand).clear()  # the flags hold their file


def deaf(_flags: Flags) -> None:
    """Hear nothing, as native code does."""


def deaf_to_sigterm(_flags: Flags) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def listening(_flags: Flags) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def test_a_silent_rank_is_woken_then_ended(stands):
    stand = stands(deaf)
    assert stand.ladder.seconds_to_next_step() is None
    assert not stand.ladder.begun
    stand.ladder.begin([stand.rank])
    assert stand.ladder.begun
    assert stand.ladder.told == {0}
    assert stand.ladder.seconds_to_next_step() == pytest.approx(0.4)
    stand.climb(0.3)
    assert not stand.was_woken()
    stand.climb(0.4)
    assert stand.was_woken()
    assert stand.is_alive()
    assert stand.ladder.seconds_to_next_step() == pytest.approx(0.3)
    stand.climb(0.72)
    assert stand.ended_by() == signal.SIGTERM
    assert stand.ladder.doomed == {stand.pid}


def test_a_rank_whose_function_has_not_begun_is_ended_at_once(stands):
    stand = stands(starting)
    stand.ladder.begin([stand.rank])
    assert stand.ended_by() == signal.SIGKILL
    assert stand.ladder.told == {0}


def test_a_silent_rank_with_a_handler_of_its_own_is_killed(stands):
    stand = stands(deaf_to_sigterm)
    stand.ladder.begin([stand.rank])
    for seconds in (0.41, 0.72, 1.0):
        stand.climb(seconds)
        assert stand.is_alive()
    stand.climb(1.1)
    assert stand.ended_by() == signal.SIGKILL


def test_a_rank_that_has_heard_may_clean_up_for_five_seconds(stands):
    stand = stands(listening)
    stand.ladder.begin([stand.rank])
    deadline = time.monotonic() + 20
    while not stand.flags.acknowledged(0) and time.monotonic() < deadline:
        os.sched_yield()
    for seconds in (0.4, 0.8, 1.2, 4.9):
        stand.climb(seconds)
        assert stand.is_alive()
        assert not stand.was_woken()
    stand.climb(5.0)
    assert stand.ended_by() == signal.SIGKILL
    assert stand.ladder.seconds_to_next_step() is None


def test_a_late_ladder_leaves_a_pause_between_steps(stands):
    stand = stands(deaf)
    stand.ladder.begin([stand.rank])
    stand.climb(3.0)
    assert stand.was_woken()
    assert stand.ladder.seconds_to_next_step() == pytest.approx(0.3)
    stand.climb(3.1)
    assert stand.is_alive()
    stand.climb(3.31)
    assert stand.ended_by() == signal.SIGTERM


@pytest.mark.parametrize("how", ["set_finished", "set_failed"])
def test_a_rank_whose_function_is_over_is_not_interrupted_and_has_the_whole_time(stands, how: str):
    stand = stands(listening)
    getattr(stand.flags, how)(0)
    stand.ladder.begin([stand.rank])
    for seconds in (0.4, 0.8, 1.2):
        stand.climb(seconds)
    assert stand.is_alive()
    assert not stand.flags.acknowledged(0)
    assert stand.ladder.told == set()
    stand.climb(5.0)
    assert stand.ended_by() == signal.SIGKILL
    assert stand.ladder.told == (set() if how == "set_failed" else {0}), "a failure stays the rank's own"
