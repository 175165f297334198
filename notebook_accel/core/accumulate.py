"""Gradient accumulation: which step is the last of a window, and how large the window is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from torch import nn

from notebook_accel.backends.base import Backend
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.plugins import GradientAccumulationPlugin
from notebook_accel.errors import ConfigError


class GradientWindow:
    """The micro-batches whose gradients make one optimizer step.

    Args:
        plugin: how gradients are accumulated.
        watch: the loaders' passes; a window ends where its loader ends.

    Attributes:
        plugin: how gradients are accumulated.
        steps: micro-batches of a full window.
        most_steps: the most that it has been; loaders look ahead as far.
        is_step: True on the window's last micro-batch, and where nothing is accumulated.
        size: micro-batches of this window: what a loss is divided by, so that a short last window averages right.
        number: how many micro-batches were entered.
        models: the prepared models that the micro-batch in hand trains; () where none were named.
        is_open: True inside of a micro-batch's block.
    """

    def __init__(self, plugin: GradientAccumulationPlugin, watch: EpochWatch) -> None:
        self.plugin = plugin
        self.steps = self.most_steps = plugin.num_steps
        self.is_step = True
        self.size = plugin.num_steps
        self.number = 0
        self.models: Sequence[nn.Module] = ()
        self.is_open = False
        self.done = 0
        self._watch = watch

    def next_batch(self) -> None:
        """Enter the next micro-batch."""
        remaining = self._watch.remaining if self.plugin.sync_with_dataloader else None
        if self.done == 0:
            whole = remaining is None or not self.plugin.weight_partial_window
            self.size = self.steps if whole else min(self.steps, remaining + 1)  # type: ignore[operator]  # not None
        self.number += 1
        self.done += 1
        self.is_step = self.done >= min(self.size, self.steps) or remaining == 0
        if self.is_step:
            self.done = 0

    def set_steps(self, steps: int) -> None:
        """Let windows hold another number of micro-batches, from the next one on."""
        self.steps, self.most_steps = steps, max(steps, self.most_steps)
        if self.done == 0:
            self.size = steps

    def state_dict(self) -> dict[str, int]:
        """Give how far the window is filled, as plain data."""
        return {"number": self.number, "done": self.done, "size": self.size, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on in a window.

        Args:
            state: of ``state_dict``.

        Raises:
            ConfigError: windows hold another number of micro-batches now, and this one had begun.
        """
        if state["done"] and state["steps"] != self.steps:
            what = f"a window of {state['steps']} micro-batches had begun, and windows hold {self.steps} now"
            raise ConfigError(what, f"go on with gradient_accumulation_steps={state['steps']}")
        self.start_over()
        self.number, self.done = state["number"], state["done"]
        if self.done:
            self.size, self.is_step = state["size"], False

    def start_over(self) -> None:
        """Forget what the window holds so far."""
        self.is_step, self.size, self.done, self.models = True, self.steps, 0, ()


class MicroBatch:
    """The block of one micro-batch.

    Args:
        window: which it belongs to; entered already.
        models: the prepared models that are trained.
        around: what else is around the block, such as that gradients stay on this rank; None for nothing.
    """

    __slots__ = ("_around", "_models", "_window")

    def __init__(
        self, window: GradientWindow, models: Sequence[nn.Module], around: AbstractContextManager[Any] | None
    ) -> None:
        self._window = window
        self._models = models
        self._around = around

    def __enter__(self) -> None:
        """Open the block."""
        self._window.is_open = True
        self._window.models = self._models
        if self._around is not None:
            self._around.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Close the block."""
        self._window.is_open = False
        return None if self._around is None else self._around.__exit__(kind, error, traceback)


def micro_batch(window: GradientWindow, models: Sequence[nn.Module], backend: Backend) -> MicroBatch:
    """Enter the next micro-batch and give its block, in which gradients stay local unless it is the window's last.

    Args:
        window: which it belongs to.
        models: prepared models.
        backend: the connection to the other ranks.
    """
    window.next_batch()
    exchanged = window.is_step or window.plugin.sync_each_batch
    return MicroBatch(window, models, None if exchanged else backend.no_sync(models))
