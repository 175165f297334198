"""Refuses the step of an optimizer that should have been prepared."""

from __future__ import annotations

import weakref
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.registry import Prepared
from notebook_accel.core.scaling import Scaling
from notebook_accel.errors import ConfigError


class StepGuard:
    """Watches the optimizers' steps where one that was not prepared would train wrongly.

    That is so where gradients are accumulated (it would step on every micro-batch) and where they are scaled. It costs
    nothing elsewhere.

    Args:
        prepared: what has been made ready.
        window: the gradient accumulation.
        scaling: what stands between a loss and its gradients.
        rank: for the message.

    Attributes:
        known: optimizers that were looked at.
    """

    def __init__(self, prepared: Prepared, window: GradientWindow, scaling: Scaling, rank: int) -> None:
        self._prepared = prepared
        self._window = window
        self._rank = rank
        self._why = ""
        self.known: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        if scaling.scaler is not None:
            self.watch("its gradients are scaled, with mixed_precision='fp16'")
        elif window.steps > 1:
            self.watch(f"it would step on each of the {window.steps} micro-batches of a window")

    def watch(self, why: str) -> None:
        """Look at every step from now on.

        Args:
            why: what goes wrong with an optimizer that is not prepared.
        """
        if self._why:
            return
        self._why = why
        guard = weakref.ref(self)

        def look(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            watching = guard()
            if watching is not None and optimizer not in watching.known:
                watching.check(optimizer)

        weakref.finalize(self, register_optimizer_step_pre_hook(look).remove)

    def check(self, optimizer: Optimizer) -> None:
        """Refuse ``optimizer`` if it trains a prepared model and was not prepared."""
        if not any(one.optimizer is optimizer for one in self._prepared.optimizers):
            own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            models = [*self._prepared.models, *self._window.models]
            trained = {id(parameter) for model in models for parameter in model.parameters()}
            if own & trained:
                what = (
                    f"rank {self._rank}: a {type(optimizer).__name__} that was not prepared steps on a prepared model"
                )
                raise ConfigError(f"{what}; {self._why}", "optimizer = accelerator.prepare(optimizer)")
        self.known.add(optimizer)
