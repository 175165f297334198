"""What the ranks' functions have logged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload


@dataclass(frozen=True)
class Entry:
    """One call of ``accelerator.log``.

    Attributes:
        rank: whose.
        values: by name.
        step: of the training, None where it was not said.
    """

    rank: int
    values: Mapping[str, Any]
    step: int | None

    def row(self) -> dict[str, Any]:
        """Give it as a row of a table."""
        return {**({} if self.step is None else {"step": self.step}), **self.values}


class Metrics(Sequence[dict[str, Any]]):
    """What rank 0 has logged, a dict for each call in their order; ``of_rank`` gives any rank's.

    Args:
        entries: every rank's, in their order.

    Example:
        >>> Metrics([Entry(0, {"loss": 0.5}, 1), Entry(1, {"loss": 0.6}, 1)])[0]
        {'step': 1, 'loss': 0.5}
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = tuple(entries)

    @classmethod
    def of(cls, entries: Iterable[Iterable[Entry]]) -> Metrics:
        """Put the ranks' entries together."""
        return cls(entry for of_rank in entries for entry in of_rank)

    def of_rank(self, rank: int) -> list[dict[str, Any]]:
        """Give what a rank has logged."""
        return [entry.row() for entry in self._entries if entry.rank == rank]

    def column(self, name: str) -> list[Any]:
        """Give rank 0's values of one name, without the calls that did not log it."""
        return [row[name] for row in self if name in row]

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Give a row, or several."""
        return self.of_rank(0)[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the rows."""
        return iter(self.of_rank(0))

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.of_rank(0))

    def __repr__(self) -> str:
        """Say what there is, and the last of it."""
        rows = self.of_rank(0)
        return f"Metrics({len(rows)} rows{f', the last: {rows[-1]}' if rows else ''})"
