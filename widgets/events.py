"""What can happen to a run panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from notebook_accel.launch.bars import Row
from notebook_accel.launch.metrics import Entry
from notebook_accel.wire.events import Progress

Control = Literal["stop", "stacks", "pause", "log scale"]


@dataclass(frozen=True)
class Reading:
    """What a rank uses at the moment; None for what nobody can say.

    Attributes:
        busy_percent: of its GPU, or of one core.
        memory_bytes: of its GPU, or of the process.
        memory_total_bytes: what its GPU has.
    """

    busy_percent: float | None = None
    memory_bytes: int | None = None
    memory_total_bytes: int | None = None


@dataclass(frozen=True)
class Printed:
    """A rank has printed something."""

    rank: int
    text: str


@dataclass(frozen=True)
class LoggedMany:
    """A rank has logged something, several times perhaps; ``first`` is how often it had before."""

    rank: int
    entries: Sequence[Entry]
    first: int = 0


@dataclass(frozen=True)
class BarMoved:
    """A rank's innermost bar has moved."""

    rank: int
    bar: Progress


@dataclass(frozen=True)
class BarsDrawn:
    """The bars look otherwise."""

    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Measured:
    """What ranks use was measured."""

    readings: Mapping[int, Reading]


@dataclass(frozen=True)
class RankEnded:
    """A rank's process has ended."""

    rank: int
    how: str


@dataclass(frozen=True)
class Ticked:
    """Time has passed."""

    elapsed_seconds: float


@dataclass(frozen=True)
class Pressed:
    """Somebody has pressed a button."""

    control: Control


@dataclass(frozen=True)
class Chosen:
    """Somebody wants to see the output of a rank, or with None of all."""

    rank: int | None


@dataclass(frozen=True)
class StacksCame:
    """The ranks have said where they are."""

    stacks: Mapping[int, str]


@dataclass(frozen=True)
class Restarted:
    """The function is run again from its beginning."""


@dataclass(frozen=True)
class DisplaysWait:
    """So many displays wait for somebody to show them."""

    count: int


@dataclass(frozen=True)
class Ended:
    """The run has ended."""

    state: str
    elapsed_seconds: float
    failure: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


Event = (
    Printed
    | LoggedMany
    | BarMoved
    | BarsDrawn
    | Measured
    | RankEnded
    | Ticked
    | Pressed
    | Chosen
    | StacksCame
    | Restarted
    | DisplaysWait
    | Ended
)
