"""What is known of a rank while it runs, for whoever looks on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from notebook_accel.launch.metrics import Entry
from notebook_accel.launch.output import RankOutput
from notebook_accel.wire.control import RankExited
from notebook_accel.wire.events import Progress


@dataclass(frozen=True)
class RankFacts:
    """One rank at one moment.

    Attributes:
        pid: its process, None where it has not started or has none of its own.
        exited: how its process ended, None while it runs.
        output: what it has printed; grows.
        logged: what it has logged; grows.
        bar: the innermost progress bar that moves, or the last that moved; None where there was none.
    """

    pid: int | None
    exited: RankExited | None
    output: RankOutput
    logged: Sequence[Entry]
    bar: Progress | None = None
