from __future__ import annotations

import json
import signal

import pytest

from notebook_accel.launch.verdict import Memory, RankReport, failures_of, notices_of
from notebook_accel.wire.control import RankExited
from notebook_accel.wire.outcome import Failure, Raised, Returned, Unreturnable
from notebook_accel.worker import seat as rank


def raised(
    rank: int, at: float, *, told: bool = False, told_at: float | None = None, knock_on: bool = False
) -> RankReport:
    failure = Failure(rank=rank, headline="ValueError: x", hint="h", at_seconds=at, knock_on=knock_on)
    return RankReport(rank, Raised(failure), RankExited(rank, 1, at + 0.1, told, told_at))


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


def test_a_rank_that_waited_for_one_that_had_returned_hears_of_that():
    returned = RankReport(1, Returned("1"), RankExited(1, 0, 1.0, False))
    assert "rank 1 had returned" in failures_of([raised(0, 2.0, knock_on=True), returned])[0].hint
    assert failures_of([raised(0, 2.0), returned])[0].hint == "h"
    (first, second) = failures_of([raised(0, 2.0, knock_on=True), returned, ended(2, 3, 2.5)])
    assert (first.rank, second.hint) == (2, "h")


@pytest.mark.parametrize(
    ("code", "words"),
    [(137, "137 (a shell's word for SIGKILL)"), (139, "139 (a shell's word for SIGSEGV)"), (3, "3"), (255, "255")],
)
def test_a_shells_exit_code_is_explained(code: int, words: str):
    assert (
        failures_of([ended(0, code, 1.0)])[0].headline == f"the process ended with exit code {words} before the "
        "function returned"
    )


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


def test_what_follows_anothers_end_is_not_the_cause_though_it_came_first():
    reports = [raised(0, 1.0, knock_on=True), raised(1, 1.4), raised(2, 0.9, knock_on=True), raised(3, 1.5)]
    assert [failure.rank for failure in failures_of(reports)] == [1, 3, 2, 0]
    assert failures_of(reports[::2])[0].rank == 2, "where there is nothing else, the first of them is named"


def test_a_failure_before_the_interrupt_is_the_ranks_own_however_late_its_process_ended():
    reports = [
        raised(0, 2.0, knock_on=True),
        raised(1, 1.0, told=True, told_at=3.0),
        raised(2, 3.5, told=True, told_at=3.0),
    ]
    assert [failure.rank for failure in failures_of(reports)] == [1, 0, 2]


def test_a_rank_that_was_interrupted_is_said_to_have_been_running():
    failure = Failure(rank=0, headline="KeyboardInterrupt", hint="h", at_seconds=3.0)
    told = RankReport(0, Raised(failure), RankExited(0, 1, 3.1, True, 2.9))
    assert failures_of([told])[0].headline == "it was still running and was interrupted"
    own = RankReport(0, Raised(failure), RankExited(0, 1, 3.1, False))
    assert failures_of([own])[0].headline == "KeyboardInterrupt"


def killed(memory: Memory, peak: int | None = 3 << 29) -> Failure:
    (failure,) = failures_of([RankReport(0, None, RankExited(0, -9, 1.0, False, None, peak))], memory)
    return failure


def test_memory_that_ran_out_is_said_where_that_is_known():
    failure = killed(Memory("the memory that this notebook may use", 12 << 30))
    assert failure.headline == (
        "the process was killed by SIGKILL: the memory that this notebook may use of 12.0 GiB was used up"
    )
    assert failure.hint.startswith("the rank used up to 1.5 GiB; lower the batch size")
    unknown = killed(Memory(None, 12 << 30))
    assert unknown.headline == "the process was killed by SIGKILL"
    assert "If memory ran out (the rank used up to 1.5 GiB; the limit is 12.0 GiB): lower" in unknown.hint
    assert "If memory ran out: lower" in killed(Memory(), None).hint


CRASH = f"""some output
Fatal Python error: Segmentation fault

Thread 0x00007f1 (most recent call first):
  File "/data/other.py", line 9 in wait

Current thread 0x00007f2 (most recent call first):
  File "{json.__file__}", line 3 in string_at
  File "/data/train.py", line 4 in crash
  File "/data/train.py", line 7 in train
  File "{rank.__file__}", line 77 in _call
  File "<string>", line 1 in <module>

Extension modules: torch._C (total: 1)
"""


def test_a_crash_is_shown_where_it_happened():
    report = RankReport(1, None, RankExited(1, -signal.SIGSEGV, 1.0, False), CRASH)
    (failure,) = failures_of([report])
    (trace,) = failure.chain
    assert [(frame.function, frame.line, frame.users) for frame in trace.frames] == [
        ("train", 7, True),
        ("crash", 4, True),
        ("string_at", 3, False),
    ]
    assert failure.traceback.splitlines()[-1] == "Fatal Python error: Segmentation fault"
    assert '  File "/data/train.py", line 4, in crash' in failure.traceback
    assert "called by the line above" in failure.hint


@pytest.mark.parametrize("output", ["", "Fatal Python error: Aborted\n", "hello\nCurrent thread\n"])
def test_a_crash_without_a_stack(output: str):
    report = RankReport(1, None, RankExited(1, -signal.SIGABRT, 1.0, False), output)
    (failure,) = failures_of([report])
    assert "logs(rank)" in failure.hint


def test_a_function_that_exited_well_is_said():
    reports = [RankReport(rank, Returned("None", exited=True)) for rank in range(3)]
    assert notices_of(reports) == ["ranks 0, 1 and 2 called sys.exit(0), which counts as a return of None"]
