"""What has happened in a run since the last look, as events for the panel's state."""

from __future__ import annotations

import codecs
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from notebook_accel.errors import AccelError, RankFailed, place_lines
from notebook_accel.launch.bars import Row
from notebook_accel.launch.output import label_of
from notebook_accel.launch.rank_facts import RankFacts
from notebook_accel.launch.run import Run
from notebook_accel.origins import place
from notebook_accel.wire.control import RankExited
from notebook_accel.wire.events import Progress

from .events import (
    BarMoved,
    BarsDrawn,
    DisplaysWait,
    Ended,
    Event,
    LoggedMany,
    Printed,
    RankEnded,
    Restarted,
    Ticked,
)
from .state import PanelState, RankState

_LOOK_BYTES = 1 << 15  # of a rank's output at a look: more cannot be seen anyway


def begun(run: Run[object]) -> PanelState:
    """Give the state of a run of which nothing is known yet."""
    devices = [device.name or device.kind for device in run.plan.devices] or ["CPU"] * run.plan.world_size
    template = run.config.log_prefix
    return PanelState(
        run.name,
        str(run.plan),
        tuple(RankState(label_of(rank, template), device) for rank, device in enumerate(devices)),
    )


@dataclass
class _Seen:
    """How much of a rank has been looked at."""

    logged: int = 0
    output_bytes: int = 0
    bar: Progress | None = None
    exited: RankExited | None = None
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )


class Collector:
    """Looks at a run, for one thread.

    Args:
        run: the run.
        clock: gives the time on the clock of ``run.started_at``.
    """

    def __init__(self, run: Run[object], clock: Callable[[], float]) -> None:
        self._run = run
        self._clock = clock
        self._seen: list[_Seen] = [_Seen() for _ in range(run.plan.world_size)]
        self._outputs: list[object] = []
        self._rows: tuple[Row, ...] = ()
        self._waiting = 0

    def pids(self) -> dict[int, int]:
        """Give the processes of the ranks that run."""
        facts = enumerate(self._run.rank_facts())
        return {rank: of_rank.pid for rank, of_rank in facts if of_rank.pid is not None and of_rank.exited is None}

    def look(self) -> Iterator[Event]:
        """Give what has happened since the last look."""
        has_ended = self._run.state != "running"  # asked first: what is read now is all there is then
        facts = self._run.rank_facts()
        outputs: list[object] = [of_rank.output for of_rank in facts]
        if self._outputs and any(new is not old for new, old in zip(outputs, self._outputs, strict=True)):
            self._seen = [_Seen() for _ in facts]
            yield Restarted()
        self._outputs = outputs
        for rank, (of_rank, seen) in enumerate(zip(facts, self._seen, strict=True)):
            yield from _of_rank(rank, of_rank, seen)
        rows, waiting = self._run.look_at_screen()
        if rows != self._rows:
            self._rows = rows
            yield BarsDrawn(rows)
        if waiting != self._waiting:
            self._waiting = waiting
            yield DisplaysWait(waiting)
        yield self._end() if has_ended else Ticked(self._clock() - self._run.started_at)

    def _end(self) -> Ended:
        elapsed_seconds = self._clock() - self._run.started_at
        failure: tuple[str, ...] = ()
        notices: tuple[str, ...] = ()
        try:
            elapsed_seconds = self._run.result().elapsed_seconds
            notices = tuple(self._run.notices())
        except AccelError as error:
            failure = what_failed(error)
            elapsed_seconds = getattr(getattr(error, "result", None), "elapsed_seconds", elapsed_seconds)
        return Ended(self._run.state, elapsed_seconds, failure, notices)


def _of_rank(rank: int, facts: RankFacts, seen: _Seen) -> Iterator[Event]:
    data, end = facts.output.since(seen.output_bytes, _LOOK_BYTES)
    if data:
        if end - len(data) > seen.output_bytes:
            yield Printed(rank, "\n… \n")  # what came between is in the logs
            data = data.partition(b"\n")[2] or data
        seen.output_bytes = end
        yield Printed(rank, seen.decoder.decode(data))
    logged = facts.logged[seen.logged :]
    if logged:
        yield LoggedMany(rank, logged, seen.logged)
        seen.logged += len(logged)
    if facts.bar is not None and facts.bar is not seen.bar:
        seen.bar = facts.bar
        yield BarMoved(rank, facts.bar)
    if facts.exited is not seen.exited and facts.exited is not None:
        seen.exited = facts.exited
        yield RankEnded(rank, _how(facts.exited))


def _how(exited: RankExited) -> str:
    if exited.exit_code < 0:
        try:
            return signal.Signals(-exited.exit_code).name
        except ValueError:
            return f"signal {-exited.exit_code}"
    return "ended" if exited.exit_code == 0 else f"exit code {exited.exit_code}"


def what_failed(error: AccelError) -> tuple[str, ...]:
    """Say in a few lines what went wrong, with the line of the cell where it did."""
    if not isinstance(error, RankFailed):
        places = getattr(error, "places", None)
        return (getattr(error, "what", str(error)), *(place_lines(places) if isinstance(places, dict) else ()))
    lines = [error.what]
    first = error.failures[0]
    frames = first.chain[-1].frames if first.chain else ()
    own = [frame for frame in frames if frame.users]
    if own or frames:
        frame = (own or list(frames))[-1]
        at = frame.line - frame.first_line
        source = frame.source[at].strip() if 0 <= at < len(frame.source) else ""
        lines.append(f"{place(frame.file, frame.line)}, in {frame.function}{f': {source}' if source else ''}")
    lines.append(f"-> {error.hint}")
    return tuple(lines)
