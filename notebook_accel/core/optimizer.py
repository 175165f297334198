"""Optimizers and schedulers that stand still while gradients are accumulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from notebook_accel.core.accumulate import GradientWindow


class PreparedOptimizer(Optimizer):
    """``optimizer``, whose ``step`` and ``zero_grad`` do nothing on all but a window's last micro-batch.

    Everything else is the wrapped optimizer's: state, parameter groups, hooks, state dict.

    Args:
        optimizer: any torch optimizer.
        window: tells when to step.

    Example:
        >>> import torch
        >>> from notebook_accel.core.epoch import EpochWatch
        >>> inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> PreparedOptimizer(inner, GradientWindow(1, EpochWatch())).param_groups[0]["lr"]
        0.5
    """

    def __init__(self, optimizer: Optimizer, window: GradientWindow) -> None:
        # The base class is not initialised: its state is the wrapped optimizer's.
        self.optimizer = optimizer
        self._window = window

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step, unless more gradients are to come.

        Args:
            closure: computes the loss anew, for the optimizers that want it.
        """
        if not self._window.is_step:
            return None
        return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, unless more are to come.

        Args:
            set_to_none: drop the gradient tensors instead of filling them with zeros.
        """
        if self._window.is_step:
            self.optimizer.zero_grad(set_to_none=set_to_none)

    def __getattr__(self, name: str) -> Any:
        """Give the wrapped optimizer's attribute."""
        if name == "optimizer":  # not there yet, while being unpickled
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the wrapped optimizer's state on the wrapped optimizer."""
        target = self.optimizer if name in {"state", "param_groups", "defaults"} else self
        object.__setattr__(target, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with the wrapped optimizer, not with the base class's idea of its state."""
        return type(self), (self.optimizer, self._window)

    def __repr__(self) -> str:
        """Show the wrapped optimizer."""
        return f"PreparedOptimizer({self.optimizer!r})"


class PreparedScheduler(LRScheduler):
    """``scheduler``, stepped once for every batch of the run: ``steps`` times a call, not while accumulating.

    A schedule is written for the batches of one process; with ``W`` ranks a step consumes ``W`` of them.

    Args:
        scheduler: any torch scheduler.
        window: tells when to step.
        steps: scheduler steps for one call.
    """

    def __init__(self, scheduler: LRScheduler, window: GradientWindow, steps: int) -> None:
        # The base class is not initialised: its state is the wrapped scheduler's.
        self.scheduler = scheduler
        self._window = window
        self._steps = steps
        self._total = getattr(scheduler, "total_steps", None)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Step, unless more gradients are to come.

        Args:
            args: such as the metric of ``ReduceLROnPlateau``; a call with arguments steps once.
            kwargs: as ``args``.
        """
        if not self._window.is_step:
            return
        if args or kwargs:
            self.scheduler.step(*args, **kwargs)
            return
        for _ in range(self._steps):
            # A schedule of fixed length raises beyond its end, which is inside the last call when W does not divide it.
            if self._total is None or self.scheduler.last_epoch < self._total:
                self.scheduler.step()

    def __getattr__(self, name: str) -> Any:
        """Give the wrapped scheduler's attribute."""
        if name == "scheduler":  # not there yet, while being unpickled
            raise AttributeError(name)
        return getattr(self.scheduler, name)


def _forwarded(name: str, holder: str) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(getattr(self, holder), name)(*args, **kwargs)

    forward.__name__ = name
    forward.__doc__ = f"Call the wrapped {holder}'s ``{name}``."
    return forward


def _forward_public_methods(wrapper: type, base: type, holder: str) -> None:
    # The base class's methods would work on a state that the wrapper does not have.
    for name, member in vars(base).items():
        if not name.startswith("_") and callable(member) and name not in vars(wrapper):
            setattr(wrapper, name, _forwarded(name, holder))


_forward_public_methods(PreparedOptimizer, Optimizer, "optimizer")
_forward_public_methods(PreparedScheduler, LRScheduler, "scheduler")
