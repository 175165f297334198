"""Notices that a run hangs: nothing is printed, no rank ends, and every rank stays where it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from notebook_accel.launch.hang_report import HangReport, StillRank, report_of
from notebook_accel.launch.stacks import Frame, read
from notebook_accel.launch.verdict import RankReport
from notebook_accel.wire.control import Computed, Stacks
from notebook_accel.wire.outcome import Raised

_LOOKS_A_TIMEOUT = 10
_SHORTEST_STEP_SECONDS = 0.1
# What a rank may compute between two looks and still count as waiting: to say where it is takes a part of it, and the
# threads that a process group has turn around now and then.
_WAITING_SECONDS = 0.01
_WAITING_SHARE = 0.2


@dataclass
class _Rank:
    """A rank as it was last seen.

    Attributes:
        text: what it wrote.
        frames: where its main thread was.
        computed: what it had computed.
        progress: how many collectives and steps it had begun.
        same_since: since when it has been there.
        idle_since: since when it has not computed.
        seen_at: when it was last seen.
    """

    text: str
    frames: tuple[Frame, ...]
    computed: Computed
    progress: int
    same_since: float
    idle_since: float
    seen_at: float


class HangWatch:
    """Looks where ranks are while nothing is heard of them. For one thread, which wakes it when it wants to be woken.

    A rank that prints, is elsewhere at the next look, or has begun a collective or made an optimizer step since, moves.
    Ranks that all compute at one and the same line are at work; a rank that waits while another computes at the same
    line for so long hangs.

    Args:
        name: the function's name.
        ranks: what is known of each rank.
        timeout_seconds: how long nothing must change; None never looks.
        ask: asks the supervisor for the stacks of the main threads.
        tell: called with the report, once for each hang.
        sees_computing: whether a rank that waits uses no processor; one that waits for a GPU may.
        clock: gives the time.
    """

    def __init__(
        self,
        name: str,
        ranks: Sequence[RankReport],
        timeout_seconds: float | None,
        *,
        ask: Callable[[], None],
        tell: Callable[[HangReport], None],
        sees_computing: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._reports = ranks
        self._timeout_seconds = timeout_seconds or float("inf")
        self._step_seconds = max(_SHORTEST_STEP_SECONDS, self._timeout_seconds / _LOOKS_A_TIMEOUT)
        self._ask = ask
        self._tell = tell
        self._sees_computing = sees_computing
        self._clock = clock
        self._seen: dict[int, _Rank] = {}
        self._asked = False
        self._told = False
        self._off = not timeout_seconds
        self._look_at = clock() + self._step_seconds

    def stop(self) -> None:
        """Look no more: the run is being ended."""
        self._off = True

    def heard(self) -> None:
        """Take note that a rank has printed, said something or ended."""
        if not self._off:
            self._seen.clear()
            self._told = False
            self._look_at = self._clock() + self._step_seconds

    def seconds_to_next_look(self) -> float | None:
        """Say when to call ``look``; None when something else will happen before."""
        if self._off or self._asked or not self._unfinished():
            return None
        return max(0.0, self._look_at - self._clock())

    def look(self) -> None:
        """Ask where the ranks are, if it is time to."""
        if self.seconds_to_next_look() == 0.0:
            self._asked = True
            self._ask()

    def take(self, answer: Stacks) -> None:
        """Compare where the ranks are with where they were."""
        self._asked = False
        if self._off:
            return
        now = self._clock()
        self._look_at = max(self._look_at, now + self._step_seconds)
        unfinished = self._unfinished()
        seen = {rank: self._see(rank, answer, now) for rank in answer.stacks}
        seen = {rank: seen[rank] for rank in sorted(unfinished.intersection(seen))}
        if any(rank.same_since == now for rank in seen.values()):
            self._told = False
        self._seen = seen
        if not self._told and seen and set(seen) == unfinished and self._hangs(now):
            self._told = True
            self._tell(report_of(self._name, [self._still(rank) for rank in seen], self._ended(), now))

    def _unfinished(self) -> set[int]:
        return {report.rank for report in self._reports if report.outcome is None and report.exited is None}

    def _see(self, number: int, answer: Stacks, now: float) -> _Rank:
        text, computed, progress = answer.stacks[number], answer.computed[number], answer.progress[number]
        stacks = read(text)
        frames = stacks[0].frames if stacks else ()
        before = self._seen.get(number)
        if before is None:
            return _Rank(text, frames, computed, progress, now, now, now)
        same = before.frames == frames and bool(before.text) == bool(text)
        same = same and before.progress == progress
        idle = same and not (self._sees_computing and _has_computed(before, computed, now))
        same_since, idle_since = before.same_since if same else now, before.idle_since if idle else now
        return _Rank(text, frames, computed, progress, same_since, idle_since, now)

    def _hangs(self, now: float) -> bool:
        latest = now - self._timeout_seconds
        ranks = self._seen.values()
        return all(rank.same_since <= latest for rank in ranks) and any(rank.idle_since <= latest for rank in ranks)

    def _still(self, number: int) -> StillRank:
        rank = self._seen[number]
        return StillRank(number, rank.text, rank.same_since, rank.idle_since == rank.seen_at)

    def _ended(self) -> dict[int, str]:
        ended = {}
        for report in self._reports:
            if report.outcome is not None:
                ended[report.rank] = "has failed" if isinstance(report.outcome, Raised) else "has returned"
            elif report.exited is not None:
                ended[report.rank] = "has ended"
        return ended


def _has_computed(before: _Rank, computed: Computed, now: float) -> bool:
    main, whole = computed.main_thread_seconds, computed.all_threads_seconds
    main_before, whole_before = before.computed.main_thread_seconds, before.computed.all_threads_seconds
    if main is None or main_before is None or whole is None or whole_before is None:
        return False
    share = (whole - whole_before) / max(now - before.seen_at, 1e-9)
    return main - main_before > _WAITING_SECONDS or share > _WAITING_SHARE
