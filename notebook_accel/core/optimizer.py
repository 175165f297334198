"""Optimizers that stand still while gradients are accumulated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.scaling import Scaling


class PreparedOptimizer(Optimizer):
    """``optimizer``, whose ``step`` and ``zero_grad`` do nothing on all but a window's last micro-batch.

    Everything else is the wrapped optimizer's: state, parameter groups, hooks, state dict.

    Args:
        optimizer: any torch optimizer.
        window: tells when to step.
        scaling: what stands between the gradients and the step.

    Example:
        >>> import torch
        >>> from notebook_accel.core.epoch import EpochWatch
        >>> from notebook_accel.core.plugins import GradientAccumulationPlugin
        >>> from notebook_accel.core.scaling import Unscaled
        >>> inner = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> window = GradientWindow(GradientAccumulationPlugin(num_steps=1), EpochWatch())
        >>> PreparedOptimizer(inner, window, Unscaled()).param_groups[0]["lr"]
        0.5
    """

    def __init__(self, optimizer: Optimizer, window: GradientWindow, scaling: Scaling) -> None:
        # The base class is not initialised: its state is the wrapped optimizer's.
        self.optimizer = optimizer
        self._window = window
        self._scaling = scaling

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step, unless more gradients are to come or those that are there are not finite.

        Args:
            closure: computes the loss anew, for the optimizers that want it.
        """
        return self._scaling.step(self.optimizer, closure) if self._window.is_step else None

    def follows(self, window: GradientWindow) -> bool:
        """Whether it steps with a window's last micro-batch."""
        return self._window is window

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last step was left out because gradients were not finite."""
        return self._scaling.was_skipped(self.optimizer)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, unless more are to come.

        Args:
            set_to_none: drop the gradient tensors instead of filling them with zeros.
        """
        if self._window.is_step:
            self._scaling.forget(self.optimizer)
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
        return type(self), (self.optimizer, self._window, self._scaling)

    def __repr__(self) -> str:
        """Show the wrapped optimizer."""
        return f"PreparedOptimizer({self.optimizer!r})"


def _forwarded(name: str, holder: str) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(getattr(self, holder), name)(*args, **kwargs)

    forward.__name__ = name
    forward.__doc__ = f"Call the wrapped {holder}'s ``{name}``."
    return forward


def forward_public_methods(wrapper: type, base: type, holder: str) -> None:
    """Let a wrapper call the wrapped object's methods: the base class's would work on a state that it does not have.

    Args:
        wrapper: the class that gets the methods; those that it defines itself stay.
        base: the class whose public methods are meant.
        holder: the attribute that holds the wrapped object.
    """
    for name, member in vars(base).items():
        if not name.startswith("_") and callable(member) and name not in vars(wrapper):
            setattr(wrapper, name, _forwarded(name, holder))


forward_public_methods(PreparedOptimizer, Optimizer, "optimizer")
