from __future__ import annotations

import signal

import pytest

from notebook_accel.launch.verdict import RankReport, failures_of, notices_of
from notebook_accel.wire.control import RankExited
from notebook_accel.wire.outcome import Failure, Raised, Returned, Unreturnable


def raised(rank: int, at: float, *, told: bool = False) -> RankReport:
    failure = Failure(rank=rank, headline="ValueError: x", hint="h", at_seconds=at)
    return RankReport(rank, Raised(failure), RankExited(rank, 1, at + 0.1, told))


def ended(rank: int, code: int, at: float, *, told: bool = False) -> RankReport:
    return RankReport(rank, None, RankExited(rank, code, at, told))


def test_the_first_in_time_comes_first_and_consequences_last():
    reports = [raised(0, 5.0), raised(1, 3.0), ended(2, -9, 1.0, told=True), ended(3, -11, 4.0)]
    assert [failure.rank for failure in failures_of(reports)] == [1, 3, 0, 2]


@pytest.mark.parametrize(("signal_number", "first"), [(9, 1), (11, 1), (6, 0)])
def test_a_dead_rank_is_the_cause_of_its_peers_errors(signal_number: int, first: int):
    reports = [raised(0, 5.0), ended(1, -signal_number, 5.1)]
    assert failures_of(reports)[0].rank == first


def test_a_rank_that_returned_has_not_failed_however_its_process_ended():
    reports = [RankReport(0, Returned("1"), RankExited(0, 0, 1.0, False)), RankReport(1, Returned("2"), None)]
    assert failures_of(reports) == ()
    assert notices_of(reports) == []
    (notice,) = notices_of([RankReport(1, Returned("2"), RankExited(1, -signal.SIGALRM, 1.0, False))])
    assert "rank 1 was ended by SIGALRM after the function had ended" in notice


def test_a_lost_value_is_said():
    (notice,) = notices_of([RankReport(1, Unreturnable("a lock"), RankExited(1, 0, 1.0, False))])
    assert "rank 1 returned, but a lock; result[1] raises" in notice


@pytest.mark.parametrize(
    ("code", "name", "hint"),
    [
        (-signal.SIGKILL, "SIGKILL", "memory"),
        (-signal.SIGSEGV, "SIGSEGV", "logs"),
        (-signal.SIGABRT, "SIGABRT", "output"),
        (-signal.SIGBUS, "SIGBUS", "/dev/shm"),
        (-signal.SIGUSR1, "SIGUSR1", "output"),
        (-77, "signal 77", "output"),
    ],
)
def test_a_signal_is_named_with_the_likely_cause(code: int, name: str, hint: str):
    (failure,) = failures_of([ended(0, code, 1.0)])
    assert failure.signal_name == name
    assert failure.headline == f"the process was killed by {name}"
    assert hint in failure.hint


def test_an_exit_code_is_said():
    (failure,) = failures_of([ended(0, 3, 1.0)])
    assert failure.headline == "the process ended with exit code 3 before the function returned"
    assert failure.signal_name is None


def test_ranks_that_still_run_have_not_failed():
    assert failures_of([RankReport(0), RankReport(1, Returned("1"))]) == ()
    assert failures_of([]) == ()


def test_a_rank_that_the_launcher_ended_is_a_consequence_in_words_too():
    first, other = failures_of([ended(0, -9, 1.0, told=True), raised(1, 2.0)])
    assert (first.rank, other.headline) == (1, "it was still running and was ended")
    assert other.signal_name is None


def test_a_failure_that_only_came_when_told_comes_after_the_cause():
    assert [f.rank for f in failures_of([raised(0, 1.0, told=True), raised(1, 2.0), raised(2, 0.5, told=True)])] == [
        1,
        2,
        0,
    ]


def test_a_failed_function_whose_process_was_killed_later_is_its_own_failure():
    failure = Failure(rank=0, headline="ValueError: x", hint="h", at_seconds=1.0)
    assert failures_of([RankReport(0, Raised(failure), RankExited(0, -9, 9.0, False))]) == (failure,)


def test_a_value_that_cannot_be_sent_is_no_failure_and_all_is_said():
    report = RankReport(2, Unreturnable("a lock"), RankExited(2, -signal.SIGKILL, 1.0, False))
    assert failures_of([report]) == ()
    assert [("a lock" in notice, "SIGKILL" in notice) for notice in notices_of([report])] == [
        (True, False),
        (False, True),
    ]
