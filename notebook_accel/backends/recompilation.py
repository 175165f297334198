"""Watch XLA compile: a program that is new after the first steps costs more time than the steps themselves."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from torch import Tensor

from notebook_accel import origins

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]
# The first steps of a loop have programs of their own: gradients and optimizer state come into being.
_WARM_UP_STEPS = 3
_SAID_AT_MOST = 5


class RecompilationWarning(UserWarning):
    """XLA has compiled a new program after the first steps."""


class CompilationWatch:
    """Counts the programs that are compiled, and says what has changed when a late one is.

    Args:
        metrics: torch_xla's ``debug.metrics``, or what counts like it.
        rank: who says it; the others compile the same and are silent.

    Attributes:
        count: programs compiled since the start.
        late: those of them that came after the first steps.
    """

    def __init__(self, metrics: Any, rank: int) -> None:
        self._metrics = metrics
        self._speaks = rank == 0
        self._batches = 0
        self._optimizer_steps: Counter[int] = Counter()
        self._known: set[Shapes] = set()
        self._latest: Shapes = ()
        self._before: Shapes = ()
        self.count = self._compiled()
        self.late = 0
        self._reports = 0

    def begin(self) -> None:
        """Take note that a loop over batches begins."""
        self._batches = 0
        self._optimizer_steps.clear()

    def see(self, batch: Any) -> None:
        """Take note of a batch that is handed to the loop."""
        self._batches += 1
        self._before, self._latest = self._latest or self._before, tuple(_shapes(batch, "batch"))

    def end_step(self, optimizer: object) -> None:
        """Look after an optimizer's step."""
        self._optimizer_steps[id(optimizer)] += 1
        self.look()

    def look(self) -> None:
        """Look whether something was compiled since the last time."""
        compiled = self._compiled()
        new, self.count = compiled - self.count, compiled
        is_new_shape = self._latest not in self._known
        if new and self._is_warm():
            self.late += new
            self._reports += 1
            if self._speaks and self._reports <= _SAID_AT_MOST:
                file, line = _users_line(sys._getframe())  # noqa: SLF001 - as the inspect module does
                said = self._said(new, is_new_shape=is_new_shape)
                said += "\n  later ones are not said" if self._reports == _SAID_AT_MOST else ""
                warnings.warn_explicit(said, RecompilationWarning, file, line)
        self._known.add(self._latest)

    def _is_warm(self) -> bool:
        """Tell whether everything that steps in this loop has done so often enough."""
        counts = [*self._optimizer_steps.values()] + ([self._batches] if self._batches else [])
        return bool(counts) and min(counts) > _WARM_UP_STEPS

    @property
    def _step(self) -> int:
        return self._batches or max(self._optimizer_steps.values(), default=0)

    def _compiled(self) -> int:
        data = self._metrics.metric_data("CompileTime")
        return int(data[0]) if data else 0

    def _said(self, new: int, *, is_new_shape: bool) -> str:
        what = f"XLA compiled {new} new program{'s' if new > 1 else ''} in step {self._step} of a loop"
        changed = _changes(self._before, self._latest) if is_new_shape else []
        if changed:
            hint = "DataLoaderConfiguration(pad_last_batch=True, length_buckets=...), or drop_last=True"
            return f"{what}: {'; '.join(changed)}\n  -> give every batch one shape: {hint}"
        hint = (
            "something else changes from step to step: a Python number that goes into a tensor operation, an if on a "
            "value, .item() in the middle of a step, a length inside the model"
        )
        return f"{what}, though the batch has a shape that it had before\n  -> {hint}"


def _users_line(frame: FrameType | None) -> tuple[str, int]:
    """Give file and line of the user's code that the step is in."""
    while frame is not None:
        if origins.is_users(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "<unknown>", 0


def _changes(before: Shapes, after: Shapes) -> list[str]:
    had = {path: (shape, kind) for path, shape, kind in before}
    changed = []
    for path, shape, kind in after:
        if path not in had:
            changed.append(f"{path} is new: {shape} {kind}")
        elif had[path] != (shape, kind):
            old_shape, old_kind = had[path]
            kinds = "" if kind == old_kind else f", {old_kind} -> {kind}"
            changed.append(f"{path} {old_shape} -> {shape}{kinds}")
    return changed


def _shapes(data: Any, path: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    if isinstance(data, Tensor):
        yield path, tuple(data.shape), str(data.dtype).removeprefix("torch.")
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _shapes(value, f"{path}[{key!r}]")
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            yield from _shapes(value, f"{path}[{number}]")
