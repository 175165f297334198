"""What ``launch_map`` hands back."""

from __future__ import annotations

import html
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from notebook_accel.errors import AccelError, RankFailed, RunInterrupted
from notebook_accel.launch.result import RunResult

R = TypeVar("R")

_LONGEST_ITEM = 60


@dataclass(frozen=True, eq=False, repr=False)
class MapResult(Generic[R]):
    """What came of each item.

    Attributes:
        items: the items, in their order.
        results: each item's ``RunResult``, None where it has none.
        errors: what went wrong with each item, None where nothing did.
        elapsed_seconds: from the first launch to the last rank's end.

    Example:
        >>> from notebook_accel import launch_map
        >>> results = launch_map(lambda x: 1 / x, [1, 0, 4])
        notebook_accel: <lambda> for 3 items, ... at a time on 1 CPU each
        >>> results[2], sorted(results.failures)
        (0.25, [1])
    """

    items: tuple[Any, ...]
    results: tuple[RunResult[R] | None, ...]
    errors: tuple[AccelError | None, ...]
    elapsed_seconds: float

    def __getitem__(self, index: int) -> R:
        """Give what the function returned for item ``index``.

        Raises:
            IndexError: there is no such item.
            AccelError: what went wrong with it: RankFailed, RunTimedOut, PayloadError and so on.
        """
        result, error = self.results[index], self.errors[index]
        if error is not None:
            raise error
        if result is None:
            raise RunInterrupted(f"item {index} was not started: launch_map was interrupted", "launch it again")
        return result.value

    def __len__(self) -> int:
        """Give the number of items."""
        return len(self.items)

    def __iter__(self) -> Iterator[R]:
        """Give every item's value in the order of the items; raises at the first that failed."""
        return (self[index] for index in range(len(self)))

    @property
    def failures(self) -> dict[int, AccelError]:
        """What went wrong, by the item's index."""
        return {index: error for index, error in enumerate(self.errors) if error is not None}

    def value_or(self, default: Any = None) -> list[Any]:
        """Give every item's value, ``default`` for those that have none."""
        values: list[Any] = []
        for index in range(len(self)):
            try:
                values.append(self[index])
            except AccelError:
                values.append(default)
        return values

    def logs(self, index: int, rank: int = 0) -> str:
        """Give everything that rank ``rank`` printed for item ``index``, whether it failed or not."""
        result = self.results[index]
        if result is None:
            result = getattr(self.errors[index], "result", None)
        return "" if result is None else result.logs(rank)

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        shortener = reprlib.Repr()
        shortener.maxstring = shortener.maxother = _LONGEST_ITEM
        for item, result, error in zip(self.items, self.results, self.errors, strict=True):
            if result is not None:
                outcome, seconds = result.values[0].preview, f"{result.elapsed_seconds:.2f} s"
            else:
                outcome, seconds = _in_short(error), ""
            text = " ".join(shortener.repr(item).split())
            yield text if len(text) <= _LONGEST_ITEM else f"{text[: _LONGEST_ITEM - 3]}...", outcome, seconds

    def __repr__(self) -> str:
        """Show each item and its value in a line."""
        head = f"MapResult({len(self)} items, {len(self.failures)} failed, {self.elapsed_seconds:.2f} s)"
        return "\n  ".join([head, *(f"{item}: {outcome}" for item, outcome, _ in self._rows())])

    def _repr_html_(self) -> str:
        """Show a table in the notebook."""
        rows = "".join(
            f'<tr><th scope="row">{index}</th><td style="text-align:left"><code>{html.escape(item)}</code></td>'
            f'<td style="text-align:left"><code>{html.escape(outcome)}</code></td><td>{seconds}</td></tr>'
            for index, (item, outcome, seconds) in enumerate(self._rows())
        )
        head = '<th scope="col"></th><th scope="col" style="text-align:left">item</th>'
        head += '<th scope="col" style="text-align:left">returned</th><th scope="col">time</th>'
        failed = f", {len(self.failures)} failed" if self.failures else ""
        caption = f"{len(self)} items in {self.elapsed_seconds:.2f} s{failed}"
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _in_short(error: AccelError | None) -> str:
    if error is None:
        return "not started"
    if isinstance(error, RankFailed):
        return f"failed: {error.failures[0].headline}"
    return f"failed: {error.what}"
