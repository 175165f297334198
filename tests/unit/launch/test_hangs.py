from __future__ import annotations

import pytest

from notebook_accel.launch.hang_report import HangReport
from notebook_accel.launch.hangs import HangWatch
from notebook_accel.launch.verdict import RankReport
from notebook_accel.wire.control import Computed, RankExited, Stacks
from notebook_accel.wire.outcome import Failure, Raised, Returned


def at(line: int) -> str:
    return f'Stack (most recent call first):\n  File "train.py", line {line} in train\n'


class Watched:
    """A watch on ranks whose places a test says, at times that it says."""

    def __init__(self, ranks: int = 2, timeout_seconds: float | None = 10, **how: bool) -> None:
        self.now = 1000.0
        self.questions = 0
        self.told: list[HangReport] = []
        self.reports = [RankReport(number) for number in range(ranks)]
        self.computed = [0.0] * ranks
        self.progress = [0] * ranks
        self.watch = HangWatch(
            "train",
            self.reports,
            timeout_seconds,
            ask=self._count,
            tell=self.told.append,
            clock=lambda: self.now,
            **how,
        )

    def _count(self) -> None:
        self.questions += 1

    def pass_time(
        self, seconds: float, *lines: int, busy: tuple[int, ...] = (), stepping: tuple[int, ...] = ()
    ) -> None:
        """Let time pass while each rank is at its line, the busy ones computing, the stepping ones getting on."""
        end = self.now + seconds
        while (waiting := self.watch.seconds_to_next_look()) is not None and self.now + waiting <= end:
            self.now += waiting
            for rank in busy:
                self.computed[rank] += waiting
            for rank in stepping:
                self.progress[rank] += 1
            asked_before = self.questions
            self.watch.look()
            assert self.questions == asked_before + 1
            assert self.watch.seconds_to_next_look() is None, "one question at a time"
            alive = [report.rank for report in self.reports if report.exited is None]
            stacks = {rank: at(lines[rank]) for rank in alive}
            used = {rank: Computed(self.computed[rank], self.computed[rank]) for rank in alive}
            self.watch.take(Stacks(0, stacks, used, {rank: self.progress[rank] for rank in alive}))
        self.now = end


def test_nothing_is_asked_before_it_is_quiet():
    watched = Watched()
    watched.now += 0.5
    watched.watch.look()
    watched.watch.heard()
    assert watched.watch.seconds_to_next_look() == 1.0
    assert watched.questions == 0


def test_a_hang_is_told_once():
    watched = Watched()
    watched.pass_time(10.5, 1, 2)
    assert watched.told == []
    watched.pass_time(1, 1, 2)
    assert [report.what for report in watched.told] == ["train hangs: nothing has changed for 10 s"]
    watched.pass_time(100, 1, 2)
    assert len(watched.told) == 1


@pytest.mark.parametrize("how", ["heard", "elsewhere"])
def test_a_run_that_has_moved_may_hang_again(how: str):
    watched = Watched()
    watched.pass_time(20, 1, 2)
    if how == "heard":
        watched.watch.heard()
    watched.pass_time(20, 1, 2 if how == "heard" else 3)
    assert len(watched.told) == 2


def test_a_rank_that_moves_is_no_hang():
    watched = Watched()
    for line in range(20):
        watched.pass_time(5, 1, line)
    assert watched.told == []


def test_ranks_that_compute_at_one_line_are_at_work():
    watched = Watched()
    watched.pass_time(50, 1, 1, busy=(0, 1))
    assert watched.told == []
    watched.pass_time(12, 1, 1)
    assert len(watched.told) == 1


def test_a_rank_that_waits_for_one_that_computes_hangs():
    watched = Watched()
    watched.pass_time(12, 1, 2, busy=(1,))
    [report] = watched.told
    assert (report.places[0], report.places[1]) == (
        "is in train (train.py, line 1)",
        "computes in train (train.py, line 2)",
    )


def test_where_waiting_uses_the_processor_it_says_nothing():
    watched = Watched(sees_computing=False)
    watched.pass_time(12, 1, 2, busy=(0, 1))
    assert len(watched.told) == 1


def test_ranks_that_have_ended_are_named():
    watched = Watched(4)
    failure = Failure(rank=1, headline="", hint="", at_seconds=0)
    watched.reports[0].outcome = Returned("1")
    watched.reports[1].outcome = Raised(failure)
    watched.reports[2].exited = RankExited(2, 1, 0.0, ended_by_us=False)
    watched.pass_time(12, 1, 1, 1, 1)
    [report] = watched.told
    assert list(report.places) == [3]
    assert [line.strip() for line in report.lines[1:4]] == [
        "rank 0 has returned",
        "rank 1 has failed",
        "rank 2 has ended",
    ]


def test_ranks_that_have_all_ended_are_not_watched():
    watched = Watched(1)
    watched.reports[0].outcome = Returned("1")
    assert watched.watch.seconds_to_next_look() is None


@pytest.mark.parametrize("timeout_seconds", [None, 0])
def test_a_watch_that_is_off(timeout_seconds: float | None):
    watched = Watched(timeout_seconds=timeout_seconds)
    watched.watch.heard()
    assert watched.watch.seconds_to_next_look() is None


def test_a_run_that_is_being_ended_is_not_watched():
    watched = Watched()
    watched.pass_time(5, 1, 2)
    watched.watch.stop()
    assert watched.watch.seconds_to_next_look() is None
    watched.watch.take(Stacks(0, {}, {}, {}))
    assert watched.told == []


@pytest.mark.parametrize("sees_computing", [True, False])
def test_a_rank_that_gets_on_moves_wherever_it_is_found(sees_computing: bool):
    watched = Watched(sees_computing=sees_computing)
    watched.pass_time(30, 1, 2, stepping=(1,))
    assert watched.told == []
    watched.pass_time(10.5, 1, 2)
    assert [report.what for report in watched.told] == ["train hangs: nothing has changed for 10 s"]
