"""What a rank tells the kernel while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class Progress:
    """How far a progress bar is.

    Attributes:
        rank: which rank.
        bar: the bar's number in its rank; a bar inside another has the greater one.
        label: what stands before the bar.
        facts: what stands behind it: counts, times, rate.
        done: units done.
        total: of so many; None where nobody knows.
        closed: True with the last word of this bar.
        stays: whether it is left on the screen then.
    """

    rank: int
    bar: int
    label: str
    facts: str
    done: float
    total: float | None
    closed: bool = False
    stays: bool = True


@dataclass(frozen=True)
class Displayed:
    """Something rich to show.

    Attributes:
        rank: which rank.
        data: its forms, by MIME type.
        metadata: about the forms.
        display_id: by which it can be replaced later, "" for no such name.
        update: True to replace what was shown under that name.
    """

    rank: int
    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    display_id: str = ""
    update: bool = False


@dataclass(frozen=True)
class Cleared:
    """What the rank has displayed gives way to what it displays next.

    Attributes:
        rank: which rank.
    """

    rank: int


@dataclass(frozen=True)
class Logged:
    """Values that the function has logged.

    Attributes:
        rank: which rank.
        values: by name; plain Python values.
        step: of the training, None where it was not said.
    """

    rank: int
    values: Mapping[str, Any]
    step: int | None


Event = Started | Finished | Progress | Displayed | Cleared | Logged
