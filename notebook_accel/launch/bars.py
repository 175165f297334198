"""The ranks' progress bars: what is known of each, and how it is drawn."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from notebook_accel.wire.events import Progress

_ENDED_ROWS = 20
_BAR_CHARACTERS = 20
_PARTS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Row:
    """One bar as it is drawn; of all ranks where all have the same.

    Attributes:
        label: what stands before it.
        facts: what stands behind it.
        part: how much is done, between 0 and 1; None where nobody knows.
        ended: whether it moves no more.
    """

    label: str
    facts: str
    part: float | None
    ended: bool

    def text(self) -> str:
        """Draw it in characters."""
        if self.part is None:
            return f"{self.label}: {self.facts}" if self.label else self.facts
        eighths = int(self.part * _BAR_CHARACTERS * 8)
        full, rest = divmod(eighths, 8)
        drawn = ("█" * full + (_PARTS[rest] if rest else "")).ljust(_BAR_CHARACTERS)
        return f"{self.label}{': ' if self.label else ''}{self.part:4.0%}|{drawn}| {self.facts}"

    def html(self) -> str:
        """Draw it for a notebook."""
        label = html.escape(self.label)
        bar = ""
        if self.part is not None:
            name = f' aria-label="{label}"' if label else ""
            bar = f'<progress{name} value="{self.part:.4f}" max="1" style="width:18em"></progress> {self.part:.0%}'
        return f"<tr><td>{label}</td><td>{bar}</td><td>{html.escape(self.facts)}</td></tr>"


def html_of(rows: Iterable[Row]) -> str:
    """Draw all bars for a notebook."""
    style = "font-family:monospace;text-align:left;border:none;white-space:nowrap"
    body = "".join(row.html() for row in rows).replace("<td>", f'<td style="{style}">')
    return f'<table style="border:none">{body}</table>'


def text_of(rows: Iterable[Row]) -> str:
    """Draw all bars in characters."""
    return "\n".join(row.text() for row in rows)


@dataclass(frozen=True)
class _Bar:
    """The last that a rank has said of a bar."""

    said: Progress
    label: str
    world_size: int

    @property
    def is_gone(self) -> bool:
        return self.said.closed and not self.said.stays


class Bars:
    """Every bar of every rank that is on the screen."""

    def __init__(self) -> None:
        self._bars: dict[Hashable, dict[int, _Bar]] = {}  # by what the ranks' bars have in common, then by rank
        self._keys: dict[Hashable, Hashable] = {}  # of a rank's bar, from its beginning to its end
        self._begun: Counter[Hashable] = Counter()
        self._folded = 0

    def move(self, event: Progress, run: Hashable, world_size: int, label: str) -> None:
        """Take in what a rank says of a bar."""
        own = run, event.rank, event.bar
        key = self._keys[own] if own in self._keys else self._key(own, event)
        of_ranks = self._bars.setdefault(key, {})
        of_ranks[event.rank] = _Bar(event, label, world_size)
        if event.closed:
            del self._keys[own]
            self._forget(key, of_ranks)

    def _key(self, own: tuple[Hashable, int, int], event: Progress) -> Hashable:
        """Name a bar that has just begun by what it says and how many such its rank had; the others do the same."""
        run, rank, _ = own
        alike = run, event.label, event.total
        self._keys[own] = key = (alike, self._begun[alike, rank])
        self._begun[alike, rank] += 1
        return key

    def _forget(self, key: Hashable, of_ranks: dict[int, _Bar]) -> None:
        """Let go of a bar that has been taken off the screen, and of the oldest of too many that have ended."""
        if all(bar.is_gone for bar in of_ranks.values()):
            del self._bars[key]
        ended = [key for key, bars in self._bars.items() if all(bar.said.closed for bar in bars.values())]
        for old in ended[: max(0, len(ended) - _ENDED_ROWS)]:
            del self._bars[old]
            self._folded += 1

    def rows(self) -> list[Row]:
        """Give what is to be drawn, in the order in which the bars began."""
        rows = [Row("", f"{self._folded} bars that have ended are not shown", None, ended=True)] if self._folded else []
        for of_ranks in self._bars.values():
            rows += _rows([of_ranks[rank] for rank in sorted(of_ranks)])
        return rows


def _rows(bars: Sequence[_Bar]) -> list[Row]:
    first = bars[0]
    same = len({bar.said.total for bar in bars}) == 1
    if len(bars) == first.world_size > 1 and same:
        return [_merged(bars)]
    shown = [bar for bar in bars if not bar.is_gone]
    return [replace(_row(bar.said), label=f"{bar.label}{bar.said.label}") for bar in shown]


def _merged(bars: Sequence[_Bar]) -> Row:
    """Draw one bar for all ranks: that of the last."""
    last = min(bars, key=lambda bar: bar.said.done).said
    ahead = max(bar.said.done for bar in bars)
    row = _row(last)
    facts = f"{row.facts} (ranks at {last.done:g} to {ahead:g})" if ahead > last.done else row.facts
    return replace(row, facts=facts, ended=all(bar.said.closed for bar in bars))


def _row(said: Progress) -> Row:
    part = min(1.0, max(0.0, said.done / said.total)) if said.total else None
    return Row(said.label, said.facts, part, said.closed)
