"""What a run hands back."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from notebook_accel.errors import RankFailed, ResultUnavailable
from notebook_accel.launch.metrics import Metrics
from notebook_accel.launch.output import RankOutput
from notebook_accel.wire import pickling
from notebook_accel.wire.parcel import Parcel

R = TypeVar("R")


class Value:
    """One rank's value: pickled until somebody reads it.

    Args:
        preview: a short text of the value.
        parcel: its pickle.
        problem: why there is no value.
    """

    def __init__(self, preview: str, parcel: Parcel | None = None, problem: ResultUnavailable | None = None) -> None:
        self.preview = preview
        self._parcel = parcel
        self._problem = problem
        self._decoded: Any = None

    @classmethod
    def present(cls, value: object, preview: str) -> Value:
        """Hold a value that never left this process."""
        held = cls(preview)
        held._decoded = value
        return held

    def read(self, rank: int) -> Any:
        """Decode the value once."""
        if self._parcel is not None:
            try:
                self._decoded = pickling.loads(self._parcel)
            except Exception as error:  # noqa: BLE001 - a user's class may raise anything while it is rebuilt
                what = f"the value that rank {rank} returned cannot be rebuilt here: {type(error).__name__}: {error}"
                self._problem = ResultUnavailable(what, "return plain data or tensors, or import here what it needs")
            self._parcel = None
        if self._problem is not None:
            raise self._problem
        return self._decoded


@dataclass(frozen=True, eq=False, repr=False)
class RunResult(Generic[R]):
    """What every rank returned and printed.

    Attributes:
        elapsed_seconds: from the launch to the last rank's end.
        metrics: what ``accelerator.log`` was given, a row for each call; ``pandas.DataFrame(result.metrics)`` works.
        earlier_failures: why each attempt before this one ended, where the run was started again; what was printed in
            one of them is ``.earlier_failures[i].result.logs(rank)``.

    Example:
        >>> from notebook_accel import notebook_launcher
        >>> result = notebook_launcher(lambda: 42, num_processes=1, start_method="inline")
        notebook_accel: 1 CPU process, in this process
        >>> result.value
        42
    """

    values: tuple[Value, ...]
    outputs: tuple[RankOutput, ...]
    elapsed_seconds: float
    metrics: Metrics = field(default_factory=Metrics)
    earlier_failures: tuple[RankFailed, ...] = ()

    @property
    def value(self) -> R:
        """What rank 0 returned.

        Raises:
            ResultUnavailable: it could not be sent back or rebuilt here.
        """
        return self[0]

    def __getitem__(self, rank: int) -> R:
        """Give what rank ``rank`` returned; it is decoded when it is first read.

        Raises:
            IndexError: there is no such rank.
            ResultUnavailable: its value could not be sent back or rebuilt here.
        """
        self._check(rank)
        value: R = self.values[rank].read(rank)
        return value

    def __len__(self) -> int:
        """Give the number of ranks."""
        return len(self.values)

    def __iter__(self) -> Iterator[R]:
        """Give every rank's value in the order of the ranks."""
        return (self[rank] for rank in range(len(self)))

    def logs(self, rank: int = 0) -> str:
        """Give everything that rank ``rank`` printed, from Python or from C, to stdout and stderr.

        Raises:
            IndexError: there is no such rank.
        """
        self._check(rank)
        return self.outputs[rank].text()

    def _check(self, rank: int) -> None:
        if not 0 <= rank < len(self):
            raise IndexError(f"rank {rank} is not one of the run's ranks 0..{len(self) - 1}")

    def __repr__(self) -> str:
        """Show each rank's value in a line."""
        ranks = f"{len(self)} rank{'s' if len(self) > 1 else ''}"
        lines = [f"rank {rank}: {value.preview}" for rank, value in enumerate(self.values)]
        return "\n  ".join([f"RunResult({ranks}, {self.elapsed_seconds:.2f} s)", *lines])

    def _repr_html_(self) -> str:
        """Show a table in the notebook."""
        rows = "".join(
            f'<tr><th scope="row">{rank}</th>'
            f'<td style="text-align:left"><code>{html.escape(value.preview)}</code></td>'
            f"<td>{output.line_count():,}</td></tr>"
            for rank, (value, output) in enumerate(zip(self.values, self.outputs, strict=True))
        )
        return (
            f"<table><caption>{len(self)} rank{'s' if len(self) > 1 else ''} in {self.elapsed_seconds:.2f} s</caption>"
            '<thead><tr><th scope="col">rank</th><th scope="col" style="text-align:left">returned</th>'
            f'<th scope="col">lines printed</th></tr></thead><tbody>{rows}</tbody></table>'
        )
