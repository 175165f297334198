"""Gradient accumulation: which step is the last of a window, and how large the window is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from torch import nn

from notebook_accel.backends.base import Backend, SupportsNoSync
from notebook_accel.core.epoch import EpochWatch


class GradientWindow:
    """The micro-batches whose gradients make one optimizer step.

    Args:
        steps: micro-batches of a full window.
        watch: the loaders' passes; a window ends where its loader ends.

    Attributes:
        is_step: True on the window's last micro-batch, and where nothing is accumulated.
        size: micro-batches of this window: what a loss is divided by, so that a short last window averages right.
    """

    def __init__(self, steps: int, watch: EpochWatch) -> None:
        self.steps = steps
        self.is_step = True
        self.size = steps
        self._watch = watch
        self._done = 0

    def next_batch(self) -> None:
        """Enter the next micro-batch."""
        remaining = self._watch.remaining
        if self._done == 0:
            self.size = self.steps if remaining is None else min(self.steps, remaining + 1)
        self._done += 1
        self.is_step = self._done >= self.size or remaining == 0
        if self.is_step:
            self._done = 0


def local_gradients(models: Sequence[nn.Module], backend: Backend) -> AbstractContextManager[Any]:
    """Give a block that keeps the models' gradients on this rank, where the backend can do so.

    Args:
        models: prepared models.
        backend: the connection to the other ranks.
    """
    stack = ExitStack()
    if isinstance(backend, SupportsNoSync):
        for model in models:
            stack.enter_context(backend.no_sync(model))
    return stack
