"""From what each rank said and how its process ended to what the cell gets: values, or the first failure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from notebook_accel.wire.control import RankExited
from notebook_accel.wire.outcome import Failure, Outcome, Raised, Unreturnable

_SIGNAL_HINTS = {
    "SIGKILL": "most often memory ran out: lower the batch size or the number of ranks, and watch free memory",
    "SIGSEGV": "native code crashed; error.result.logs(rank) ends with the Python lines that called it",
    "SIGABRT": "native code gave up; its message is among the last lines of the rank's output",
    "SIGBUS": "shared memory ran out: lower num_workers of the DataLoader or enlarge /dev/shm",
    "SIGTERM": "something outside asked the process to end",
}
# A dead process is noticed after its peers have seen their connections close. Aborting may follow from another's end.
_NOTICED_LATE_SECONDS = 0.5
_MAY_FOLLOW_ANOTHERS_END = ("SIGABRT", "SIGTERM")
_EXIT_HINT = "return from the function instead of ending the process; the rank's output may say who ended it"


@dataclass
class RankReport:
    """What is known of one rank.

    Attributes:
        rank: which rank.
        outcome: how the function ended, None while it runs or when the process died in it.
        exited: how the process ended, None while it runs.
    """

    rank: int
    outcome: Outcome | None = None
    exited: RankExited | None = None


def failures_of(reports: Sequence[RankReport]) -> tuple[Failure, ...]:
    """Give the failures, the first in time first; ranks that the launcher ended come last."""
    found: list[tuple[bool, float, Failure]] = []
    for report in reports:
        failure = _failure_of(report)
        if failure is not None:
            consequence = report.exited is not None and report.exited.ended_by_us
            first_sign = failure.at_seconds
            if report.outcome is None and failure.signal_name not in _MAY_FOLLOW_ANOTHERS_END:
                first_sign -= _NOTICED_LATE_SECONDS
            found.append((consequence, first_sign, failure))
    return tuple(failure for _, _, failure in sorted(found, key=lambda entry: entry[:2]))


def notices_of(reports: Sequence[RankReport]) -> list[str]:
    """Say what went wrong after, or beside, a function that returned."""
    notices = []
    for report in reports:
        if isinstance(report.outcome, Unreturnable):
            notices.append(f"rank {report.rank} returned, but {report.outcome.reason}; result[{report.rank}] raises")
        if report.outcome is not None and report.exited is not None and report.exited.exit_code < 0:
            how = _signal_name(-report.exited.exit_code)
            notices.append(
                f"rank {report.rank} was ended by {how} after the function had ended: a thread or an exit handler "
                "of it held the process up; its value is not affected"
            )
    return notices


def _failure_of(report: RankReport) -> Failure | None:
    if isinstance(report.outcome, Raised):
        return report.outcome.failure
    if report.outcome is not None or report.exited is None:
        return None
    code, name = report.exited.exit_code, None
    if report.exited.ended_by_us:
        headline, hint = "it was still running and was ended", "see the rank that failed first"
    elif code < 0:
        name = _signal_name(-code)
        headline = f"the process was killed by {name}"
        hint = _SIGNAL_HINTS.get(name, "see the last lines of the rank's output")
    else:
        headline, hint = f"the process ended with exit code {code} before the function returned", _EXIT_HINT
    return Failure(
        rank=report.rank, headline=headline, hint=hint, at_seconds=report.exited.at_seconds, signal_name=name
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
