"""Scaling of the loss, so that small gradients survive 16-bit floats, and the optimizer's step under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from notebook_accel.core.handlers import GradScalerKwargs

Closure = Callable[[], Any]


class Scaling(Protocol):
    """What stands between a loss and an optimizer's step."""

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Torch's scaler, None where nothing is scaled."""

    def settle(self) -> None:
        """Bring what is to be saved up to date."""

    def scale(self, loss: Tensor) -> Tensor:
        """Give the loss whose gradients are to be computed."""

    def unscale(self, optimizers: Iterable[Optimizer]) -> None:
        """Bring the gradients that these optimizers hold to their true size; safe to call twice."""

    def step(self, optimizer: Optimizer, closure: Closure | None) -> Any:
        """Let ``optimizer`` step, unless its gradients are not finite."""

    def forget(self, optimizer: Optimizer) -> None:
        """Note that the gradients which ``optimizer`` held are gone."""

    def was_skipped(self, optimizer: Optimizer) -> bool:
        """Whether the last step of ``optimizer`` was left out."""


class Unscaled:
    """Null object: gradients are what they are."""

    scaler: torch.amp.GradScaler | None = None

    def settle(self) -> None:
        """Do nothing."""

    def scale(self, loss: Tensor) -> Tensor:
        """Give ``loss``."""
        return loss

    def unscale(self, optimizers: Iterable[Optimizer]) -> None:
        """Do nothing."""

    def step(self, optimizer: Optimizer, closure: Closure | None) -> Any:
        """Step."""
        return optimizer.step() if closure is None else optimizer.step(closure)

    def forget(self, optimizer: Optimizer) -> None:
        """Do nothing."""

    def was_skipped(self, optimizer: Optimizer) -> bool:
        """Give False."""
        del optimizer
        return False


class LossScaling:
    """Losses scaled by a factor that adapts itself; a step whose gradients overflow is left out.

    All ranks leave out the same steps: what is not finite on one of them is not finite in the average of all.

    Args:
        device_type: kind of device that the models lie on.
        handler: the factor's settings.

    Source: https://docs.pytorch.org/docs/stable/notes/amp_examples.html
    """

    def __init__(self, device_type: str, handler: GradScalerKwargs) -> None:
        self.scaler = torch.amp.GradScaler(device_type, **handler.to_kwargs())
        self._unscaled: set[int] = set()
        self._skipped: dict[int, bool] = {}
        self._stepped = False

    def scale(self, loss: Tensor) -> Tensor:
        """Give the loss times the factor, which is adapted first if steps were made with the last one."""
        self.settle()
        return self.scaler.scale(loss)

    def settle(self) -> None:
        """Adapt the factor after a step: once for all optimizers, whose gradients have the same factor in them."""
        if self._stepped:
            self.scaler.update()
            self._stepped = False
            self._unscaled.clear()

    def unscale(self, optimizers: Iterable[Optimizer]) -> None:
        """Divide the gradients by the factor, once before each step."""
        for optimizer in optimizers:
            if id(optimizer) not in self._unscaled and _has_gradients(optimizer):
                self.scaler.unscale_(optimizer)
                self._unscaled.add(id(optimizer))

    def step(self, optimizer: Optimizer, closure: Closure | None) -> Any:
        """Step, unless the gradients are not finite.

        Raises:
            RuntimeError: ``closure`` is given; torch's scaler cannot compute the loss anew.
        """
        if not _has_gradients(optimizer):  # torch's scaler fails where there is nothing to look at
            self._skipped[id(optimizer)] = False
            return optimizer.step() if closure is None else optimizer.step(closure)
        went: list[bool] = []

        def note(stepped: Optimizer, _args: Any, _kwargs: Any) -> None:
            found = getattr(stepped, "found_inf", None)  # a fused optimizer looks itself, and is always called
            went.append(found is None or not bool(found.item()))

        hook = optimizer.register_step_post_hook(note)
        try:
            value = self.scaler.step(optimizer) if closure is None else self.scaler.step(optimizer, closure=closure)
        finally:
            hook.remove()
        self._skipped[id(optimizer)] = not any(went)
        self._stepped = True
        return value

    def forget(self, optimizer: Optimizer) -> None:
        """Note that the gradients are gone: those that come next have the factor in them again."""
        if id(optimizer) in self._unscaled:
            self._stepped = True

    def was_skipped(self, optimizer: Optimizer) -> bool:
        """Whether the last step of ``optimizer`` was left out."""
        return self._skipped.get(id(optimizer), False)


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])
