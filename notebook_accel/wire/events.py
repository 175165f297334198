"""What a rank tells the kernel while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from notebook_accel.wire.outcome import Outcome


@dataclass(frozen=True)
class Started:
    """The rank is about to call the function.

    Attributes:
        rank: which rank.
        pid: its process.
    """

    rank: int
    pid: int


@dataclass(frozen=True)
class Finished:
    """The function ended, one way or another.

    Attributes:
        rank: which rank.
        outcome: how.
    """

    rank: int
    outcome: Outcome


Event = Started | Finished
