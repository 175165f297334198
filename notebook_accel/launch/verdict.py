"""From what each rank said and how its process ended to what the cell gets: values, or the first failure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from notebook_accel.launch.crashes import as_text, crash_in
from notebook_accel.tracebacks import ranks_in_words
from notebook_accel.wire.control import RankExited
from notebook_accel.wire.outcome import Failure, Outcome, Raised, Returned, Unreturnable

_SIGNAL_HINTS = {
    "SIGSEGV": "native code crashed; error.result.logs(rank) ends with the Python lines that called it",
    "SIGABRT": "native code gave up; its message is among the last lines of the rank's output: error.result.logs(rank)",
    "SIGBUS": "most often shared memory ran out: lower num_workers of the DataLoader or enlarge /dev/shm",
    "SIGFPE": "native code divided an integer by zero; error.result.logs(rank) ends with the lines that called it",
    "SIGILL": "a library was built for another processor; error.result.logs(rank) ends with the lines that called it",
    "SIGTERM": "something outside asked the process to end",
}
_INTERRUPTED = "it was still running and was interrupted"
_LESS_MEMORY = (
    "lower the batch size, the number of ranks or the DataLoader's num_workers; share() keeps large data once"
)
# A dead process is noticed after its peers have seen their connections close. Aborting may follow from another's end.
_NOTICED_LATE_SECONDS = 0.5
_MAY_FOLLOW_ANOTHERS_END = ("SIGABRT", "SIGTERM")
_SHELLS_SIGNALS = 128
_EXIT_HINT = "return from the function instead of ending the process; the rank's output may say who ended it"


@dataclass(frozen=True)
class Memory:
    """What is known of the memory that the run had.

    Attributes:
        ran_out: whose memory was used up during the run, in words; None if nothing says that any was.
        limit_bytes: what this process and its ranks may use, None where that is not limited.
    """

    ran_out: str | None = None
    limit_bytes: int | None = None


@dataclass
class RankReport:
    """What is known of one rank.

    Attributes:
        rank: which rank.
        outcome: how the function ended, None while it runs or when the process died in it.
        exited: how the process ended, None while it runs.
        last_words: the end of what it printed, where it was killed.
    """

    rank: int
    outcome: Outcome | None = None
    exited: RankExited | None = None
    last_words: str = ""


def failures_of(reports: Sequence[RankReport], memory: Memory = Memory()) -> tuple[Failure, ...]:
    """Give the failures, the cause first.

    Ranks that failed because the launcher ended them come last, and before them those that saw another one end. Among
    the others the first in time comes first.

    Args:
        reports: what is known of each rank.
        memory: what is known of the memory that they had.
    """
    found: list[tuple[bool, bool, float, Failure]] = []
    for report in reports:
        failure = _failure_of(report, memory)
        if failure is not None:
            first_sign = failure.at_seconds
            if report.outcome is None and failure.signal_name not in _MAY_FOLLOW_ANOTHERS_END:
                first_sign -= _NOTICED_LATE_SECONDS
            told = _came_when_told(report, failure)
            if told and failure.headline == KeyboardInterrupt.__name__:
                failure = replace(failure, headline=_INTERRUPTED)
            found.append((told, failure.knock_on, first_sign, failure))
    failures = [failure for *_, failure in sorted(found, key=lambda entry: entry[:3])]
    returned = [report.rank for report in reports if isinstance(report.outcome, Returned)]
    if failures and failures[0].knock_on and returned:
        hint = f"{ranks_in_words(returned)} had returned: all ranks must take part in the same collectives"
        failures[0] = replace(failures[0], hint=hint)
    return tuple(failures)


def _came_when_told(report: RankReport, failure: Failure) -> bool:
    if report.exited is None or not report.exited.ended_by_us:
        return False
    told_at = report.exited.told_at_seconds
    return report.outcome is None or told_at is None or failure.at_seconds >= told_at


def notices_of(reports: Sequence[RankReport]) -> list[str]:
    """Say what went wrong after, or beside, a function that returned."""
    notices = exit_notices(
        [report.rank for report in reports if isinstance(report.outcome, Returned) and report.outcome.exited]
    )
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


def exit_notices(ranks: Sequence[int]) -> list[str]:
    """Say which ranks left the function by exiting; that is no failure."""
    if not ranks:
        return []
    return [f"{ranks_in_words(ranks)} called sys.exit(0), which counts as a return of None"]


def _failure_of(report: RankReport, memory: Memory) -> Failure | None:
    if isinstance(report.outcome, Raised):
        return report.outcome.failure
    if report.outcome is not None or report.exited is None:
        return None
    code = report.exited.exit_code
    if report.exited.ended_by_us:
        headline, hint = "it was still running and was ended", "see the rank that failed first"
    elif code < 0:
        return _killed(report, report.exited, memory)
    else:
        headline, hint = f"the process ended with exit code {_code(code)} before the function returned", _EXIT_HINT
    return Failure(rank=report.rank, headline=headline, hint=hint, at_seconds=report.exited.at_seconds)


def _code(code: int) -> str:
    """Give an exit code; a shell that runs a program says by it which signal ended that."""
    name = _signal_name(code - _SHELLS_SIGNALS) if code > _SHELLS_SIGNALS else ""
    return f"{code} (a shell's word for {name})" if name.startswith("SIG") else str(code)


def _killed(report: RankReport, exited: RankExited, memory: Memory) -> Failure:
    name = _signal_name(-exited.exit_code)
    headline = f"the process was killed by {name}"
    hint = _SIGNAL_HINTS.get(name, "see the last lines of the rank's output: error.result.logs(rank)")
    crash = crash_in(report.last_words)
    if name == "SIGKILL":
        ran_out, hint = _why_killed(exited, memory)
        headline += f": {ran_out}" if ran_out else ""
        crash = None
    elif crash is not None and any(frame.users for frame in crash.frames):
        hint = hint.partition(";")[0] + ", called by the line above; what else it said is in error.result.logs(rank)"
    return Failure(
        rank=report.rank,
        headline=headline,
        hint=hint,
        at_seconds=exited.at_seconds,
        signal_name=name,
        traceback="" if crash is None else as_text(crash),
        chain=() if crash is None else (crash,),
    )


def _why_killed(exited: RankExited, memory: Memory) -> tuple[str, str]:
    """Say what a SIGKILL most probably means, and what to do."""
    peak = "" if exited.peak_rss_bytes is None else f"the rank used up to {_size(exited.peak_rss_bytes)}"
    limit = "" if memory.limit_bytes is None else f" of {_size(memory.limit_bytes)}"
    if memory.ran_out is not None:
        return f"{memory.ran_out}{limit} was used up", "; ".join(filter(None, [peak, _LESS_MEMORY]))
    used = "; ".join(filter(None, [peak, f"the limit is {_size(memory.limit_bytes)}" if memory.limit_bytes else ""]))
    used = f" ({used})" if used else ""
    return "", f"nothing here says who sent it. If memory ran out{used}: {_LESS_MEMORY}"


def _size(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GiB" if count_bytes >= 2**30 else f"{count_bytes / 2**20:.0f} MiB"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
