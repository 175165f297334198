"""What the run panel knows of a run, and how what happens changes it: no widget, no clock, no thread.

``reduce(state, event)`` gives the next state; everything that is drawn is drawn from a state alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from notebook_accel.launch.bars import Row
from notebook_accel.wire.events import Progress

from .curves import Curve, extended
from .events import (
    BarMoved,
    BarsDrawn,
    Chosen,
    Control,
    DisplaysWait,
    Ended,
    Event,
    LoggedMany,
    Measured,
    Pressed,
    Printed,
    RankEnded,
    Reading,
    Restarted,
    StacksCame,
    Ticked,
)

KEPT_LINES = 200  # of each rank, and of all together
_LINE_CHARACTERS = 400
_MOST_METRICS = 12
_MOST_RANKS_OF_A_METRIC = 8
_RATE_MEMORY = 0.6  # of the rate that was drawn last
_RATE_SECONDS = 1.0  # between looks at how far a rank is

_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*(?:\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True)
class RankState:
    """One rank.

    Attributes:
        label: what stands before its lines where they stand among others.
        device: what it computes on.
        reading: what it uses.
        step: the step that it logged last; None where it has logged nothing.
        units: how far it is, by its bars, or else by what it has logged.
        rate: units a second.
        ended: how its process ended, in words; "" while it runs.
        lines: the last lines that it has printed.
        unfinished: the beginning of the next.
        bar: what it said last of its innermost bar.
        looked_at: when its rate was found, and its units then.
        begun_at: when its units were seen first, and how many.
    """

    label: str
    device: str
    reading: Reading = field(default_factory=Reading)
    step: float | None = None
    units: float = 0.0
    rate: float | None = None
    ended: str = ""
    lines: tuple[str, ...] = ()
    unfinished: str = ""
    bar: Progress | None = None
    looked_at: tuple[float, float] | None = None
    begun_at: tuple[float, float] | None = None

    @property
    def last_line(self) -> str:
        """The last that it has printed and that is not empty."""
        return next((line for line in (self.unfinished, *reversed(self.lines)) if line.strip()), "")

    @property
    def part(self) -> float | None:
        """How much of its innermost bar is done, between 0 and 1."""
        if self.bar is None or not self.bar.total:
            return None
        return min(1.0, max(0.0, self.bar.done / self.bar.total))


@dataclass(frozen=True)
class PanelState:
    """Everything that a panel shows.

    Attributes:
        name: the function's name.
        plan: what was decided, in words.
        ranks: each rank.
        state: how the run stands.
        elapsed_seconds: since the launch.
        curves: what was logged, by name and then by rank.
        left_out: names of metrics for which there is no room.
        bars: the progress bars, ranks with the same put together.
        lines: the last lines of all ranks, as they came.
        shown: the rank whose output is shown, None for all.
        paused: the lines that stay on show while the output is not followed; None while it is.
        log_scale: whether curves have a logarithmic scale.
        stopping: how often stop was pressed.
        stacks: where each rank was when somebody asked, by rank.
        failure: what went wrong, a line each; the first says most.
        notices: what should be known all the same.
        waiting_displays: how many figures and the like wait for ``run.show()``.
    """

    name: str
    plan: str
    ranks: tuple[RankState, ...]
    state: str = "running"
    elapsed_seconds: float = 0.0
    curves: Mapping[str, Mapping[int, Curve]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    bars: tuple[Row, ...] = ()
    lines: tuple[str, ...] = ()
    shown: int | None = None
    paused: tuple[str, ...] | None = None
    log_scale: bool = False
    stopping: int = 0
    stacks: Mapping[int, str] = field(default_factory=dict)
    failure: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    waiting_displays: int = 0

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self.state != "running"

    def output_lines(self) -> tuple[str, ...]:
        """Give the lines of the chosen rank, or of all, that are to be seen now."""
        return self.paused if self.paused is not None else self._followed_lines()

    def _followed_lines(self) -> tuple[str, ...]:
        if self.shown is None:
            return self.lines
        rank = self.ranks[self.shown]
        return (*rank.lines, rank.unfinished) if rank.unfinished else rank.lines


def reduce(state: PanelState, event: Event) -> PanelState:
    r"""Give the state after an event.

    Example:
        >>> begun = PanelState("train", "1 CPU process", (RankState("", "CPU"),))
        >>> reduce(begun, Printed(0, "epoch 1\n")).ranks[0].last_line
        'epoch 1'
    """
    return _REDUCERS[type(event)](state, event)


def _with_rank(state: PanelState, rank: int, **changes: Any) -> PanelState:
    ranks = list(state.ranks)
    ranks[rank] = replace(ranks[rank], **changes)
    return replace(state, ranks=tuple(ranks))


def _printed(state: PanelState, event: Printed) -> PanelState:
    rank = state.ranks[event.rank]
    *ended, unfinished = _ESCAPE.sub("", rank.unfinished + event.text).replace("\r\n", "\n").split("\n")
    new = [_as_drawn(line) for line in ended[-KEPT_LINES:]]
    everybodys = (*state.lines, *(f"{rank.label}{line}" for line in new))[-KEPT_LINES:]
    state = _with_rank(
        state, event.rank, lines=(*rank.lines, *new)[-KEPT_LINES:], unfinished=unfinished[-_LINE_CHARACTERS:]
    )
    return replace(state, lines=everybodys)


def _as_drawn(line: str) -> str:
    """Give what a terminal would show of a line at its end: what was written over is gone."""
    line = line.rstrip("\r").rpartition("\r")[2]
    return line if len(line) <= _LINE_CHARACTERS else f"{line[:_LINE_CHARACTERS]}…"


def _logged(state: PanelState, event: LoggedMany) -> PanelState:
    values: dict[str, list[tuple[float, float]]] = {}
    step: float | None = None
    for number, entry in enumerate(event.entries, event.first):
        step = float(number if entry.step is None else entry.step)
        for name, value in entry.values.items():
            if isinstance(value, (int, float)):
                values.setdefault(str(name), []).append((step, float(value)))
    curves, left_out = dict(state.curves), state.left_out
    for name, points in values.items():
        of_ranks = dict(curves.get(name, {}))
        if name not in curves and len(curves) >= _MOST_METRICS:
            left_out = left_out if name in left_out else (*left_out, name)
        elif event.rank in of_ranks or len(of_ranks) < _MOST_RANKS_OF_A_METRIC:
            of_ranks[event.rank] = extended(of_ranks.get(event.rank, Curve()), points)
            curves[name] = dict(sorted(of_ranks.items()))
    rank = state.ranks[event.rank]
    if step is not None:
        state = _with_rank(state, event.rank, step=step, units=step if rank.bar is None else rank.units)
    return replace(state, curves=curves, left_out=left_out)


def _moved(rank: RankState, bar: Progress) -> dict[str, Any]:
    """Count the units of a rank's bars: those of one that has given way to another are taken for done."""
    before = rank.bar
    if before is None:
        return {"units": bar.done, "bar": bar, "looked_at": None}
    if before.bar == bar.bar:
        more = max(0.0, bar.done - before.done)
    else:
        more = max(0.0, (before.total or before.done) - before.done) + bar.done
    return {"units": rank.units + more, "bar": bar}


def _ticked(state: PanelState, elapsed_seconds: float) -> PanelState:
    ranks = tuple(rank if rank.ended else _looked_at(rank, elapsed_seconds) for rank in state.ranks)
    return replace(state, elapsed_seconds=elapsed_seconds, ranks=ranks)


def _looked_at(rank: RankState, now: float) -> RankState:
    """Find a rank's rate, about once a second."""
    here = now, rank.units
    if rank.begun_at is None and rank.units > 0:
        rank = replace(rank, begun_at=here)
    if rank.looked_at is None:
        return replace(rank, looked_at=here)
    rate = _rate(rank.looked_at, here)
    if now - rank.looked_at[0] < _RATE_SECONDS:
        return rank
    if rank.rate is not None:
        rate = _RATE_MEMORY * rank.rate + (1 - _RATE_MEMORY) * rate
    return replace(rank, rate=rate if rank.begun_at is not None else None, looked_at=here)


def _rate(begin: tuple[float, float], end: tuple[float, float]) -> float:
    seconds = end[0] - begin[0]
    return max(0.0, end[1] - begin[1]) / seconds if seconds > 0 else 0.0


def _rank_ended(state: PanelState, event: RankEnded) -> PanelState:
    """Let a rank's rate be that of all its time, and forget what it used."""
    rank = state.ranks[event.rank]
    rate = rank.rate
    if rank.begun_at is not None and state.elapsed_seconds - rank.begun_at[0] >= _RATE_SECONDS:
        rate = _rate(rank.begun_at, (state.elapsed_seconds, rank.units))
    return _with_rank(state, event.rank, ended=event.how, reading=Reading(), rate=rate)


def _pressed(state: PanelState, control: Control) -> PanelState:
    if control == "stop":
        return state if state.ended else replace(state, stopping=state.stopping + 1)
    if control == "pause":
        followed = replace(state, paused=None)
        return followed if state.paused is not None else replace(state, paused=followed.output_lines())
    if control == "log scale":
        return replace(state, log_scale=not state.log_scale)
    return state  # stacks: the answer is an event of its own


def _restarted(state: PanelState) -> PanelState:
    ranks = (
        replace(RankState(rank.label, rank.device), lines=(*rank.lines, "(started again)")[-KEPT_LINES:])
        for rank in state.ranks
    )
    lines = (*state.lines, "(started again)")[-KEPT_LINES:]
    return replace(state, ranks=tuple(ranks), lines=lines, bars=(), stacks={})


def _measured(state: PanelState, event: Measured) -> PanelState:
    for rank, reading in event.readings.items():
        state = _with_rank(state, rank, reading=reading)
    return state


def _chosen(state: PanelState, event: Chosen) -> PanelState:
    chosen = replace(state, shown=event.rank, paused=None)
    return chosen if state.paused is None else replace(chosen, paused=chosen.output_lines())


def _ended(state: PanelState, event: Ended) -> PanelState:
    return replace(
        state,
        state=event.state,
        elapsed_seconds=event.elapsed_seconds,
        failure=event.failure,
        notices=event.notices,
        paused=None,
    )


_REDUCERS: dict[type, Callable[[PanelState, Any], PanelState]] = {
    Printed: _printed,
    LoggedMany: _logged,
    BarMoved: lambda state, event: _with_rank(state, event.rank, **_moved(state.ranks[event.rank], event.bar)),
    BarsDrawn: lambda state, event: replace(state, bars=event.rows),
    Measured: _measured,
    RankEnded: _rank_ended,
    Ticked: lambda state, event: _ticked(state, event.elapsed_seconds),
    Pressed: lambda state, event: _pressed(state, event.control),
    Chosen: _chosen,
    StacksCame: lambda state, event: replace(state, stacks=dict(event.stacks)),
    Restarted: lambda state, _event: _restarted(state),
    DisplaysWait: lambda state, event: replace(state, waiting_displays=event.count),
    Ended: _ended,
}
