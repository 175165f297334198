"""Schedulers that follow the optimizer."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.optimizer import PreparedOptimizer, forward_public_methods
from notebook_accel.core.scaling import Scaling


class PreparedScheduler(LRScheduler):
    """``scheduler``, stepped once for every batch of the run: ``steps`` times a call, not while accumulating.

    A schedule is written for the batches of one process; with ``W`` ranks a step consumes ``W`` of them. A call after
    an optimizer's step that was left out leaves the schedule where it is.

    Args:
        scheduler: any torch scheduler.
        window: tells when to step.
        scaling: tells which steps were left out.
        steps: scheduler steps for one call; None steps once at every call, whatever the optimizer does.
    """

    def __init__(self, scheduler: LRScheduler, window: GradientWindow, scaling: Scaling, steps: int | None) -> None:
        # The base class is not initialised: its state is the wrapped scheduler's.
        self.scheduler = scheduler
        self._window = window
        self._scaling = scaling
        self._steps = steps
        self._total = getattr(scheduler, "total_steps", None)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Step, unless more gradients are to come or the optimizer's step was left out.

        Args:
            args: such as the metric of ``ReduceLROnPlateau``; a call with arguments steps once.
            kwargs: as ``args``.
        """
        if self._steps is None:
            self.scheduler.step(*args, **kwargs)
            return
        if not self._window.is_step:
            # The rate stays; the count of calls, which is part of the state, grows as it would with Accelerate.
            if self._window.plugin.adjust_scheduler and hasattr(self.scheduler, "_step_count"):
                self.scheduler._step_count += 1  # noqa: SLF001 - nothing else sets it
            return
        if self._scaling.was_skipped(self._optimizer):
            return
        if args or kwargs:
            self.scheduler.step(*args, **kwargs)
            return
        for _ in range(self._steps):
            # A schedule of fixed length raises beyond its end, which is inside the last call when W does not divide it.
            if self._total is None or self.scheduler.last_epoch < self._total:
                self.scheduler.step()

    def follows(self, window: GradientWindow) -> bool:
        """Whether it steps with a window's last micro-batch."""
        return self._window is window

    @property
    def _optimizer(self) -> Optimizer:
        optimizer = self.scheduler.optimizer
        return optimizer.optimizer if isinstance(optimizer, PreparedOptimizer) else optimizer

    def __getattr__(self, name: str) -> Any:
        """Give the wrapped scheduler's attribute."""
        if name == "scheduler":  # not there yet, while being unpickled
            raise AttributeError(name)
        return getattr(self.scheduler, name)


forward_public_methods(PreparedScheduler, LRScheduler, "scheduler")
