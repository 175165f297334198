"""From a loss to gradients that can be stepped with: backward, averaging, clipping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from notebook_accel.backends.base import Backend
from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.registry import Prepared
from notebook_accel.core.scaling import Scaling
from notebook_accel.errors import ConfigError


class Gradients:
    """Computes the gradients of one ``Accelerator``'s models.

    Args:
        backend: the connection to the other ranks.
        window: the gradient accumulation.
        scaling: what stands between a loss and its gradients.
        prepared: what has been made ready.
    """

    def __init__(self, backend: Backend, window: GradientWindow, scaling: Scaling, prepared: Prepared) -> None:
        self._backend = backend
        self._window = window
        self._scaling = scaling
        self._prepared = prepared
        self._sums = _Sums(backend)
        self._shares: dict[tuple[object, ...], Tensor] = {}  # of a window's sizes: what the backward pass begins with

    def backward(self, loss: Tensor, num_items: float | Tensor | None, kwargs: dict[str, Any]) -> None:
        """Compute gradients. Collective: all ranks must call this for a prepared model.

        Args:
            loss: a scalar: a mean, or with ``num_items`` a sum.
            num_items: how many items ``loss`` is the sum over on this rank.
            kwargs: for ``Tensor.backward``.

        Raises:
            ConfigError: the loss is no scalar or has no gradient, ``accumulate`` is missing, or sums and means meet
                in one window.
        """
        if not isinstance(loss, Tensor) or loss.grad_fn is None or loss.numel() != 1:  # type: ignore[redundant-expr]
            self._check_loss(loss, kwargs)
        window = self._window
        if window.steps > 1 and not window.is_open:
            what = f"{self._here}: backward() outside accumulate(), with {window.steps} gradient_accumulation_steps"
            raise ConfigError(what, "put the micro-batch into a block: with accelerator.accumulate(model):")
        self._sums.check(window, as_sum=num_items is not None)
        if num_items is not None:
            self._backward_of_sum(loss, num_items, kwargs)
            return
        if window.size > 1:
            loss = self._share_of_window(loss, window.size, kwargs)
        self._scaling.scale(loss).backward(**kwargs)  # type: ignore[no-untyped-call]  # torch's

    def _share_of_window(self, loss: Tensor, size: int, kwargs: dict[str, Any]) -> Tensor:
        """Let the loss count for one micro-batch of the window.

        The backward pass may as well begin with the share: that saves a division and its way back. A loss of a class
        of its own, such as one that is spread over ranks, wants a gradient of that class and is divided.
        """
        if self._scaling.scaler is not None or "gradient" in kwargs or type(loss) is not Tensor:
            return loss / size
        key = (size, loss.shape, loss.dtype, loss.device)
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = (torch.ones(loss.shape, dtype=loss.dtype) / size).to(loss.device)
        kwargs["gradient"] = share.clone()  # a parameter may keep what it gets as its own gradient
        return loss

    def _backward_of_sum(self, loss: Tensor, num_items: float | Tensor, kwargs: dict[str, Any]) -> None:
        count = _count(num_items, self._here)
        models = self._trained()
        unit = self._sums.add(count)
        self._scaling.scale(loss / unit).backward(**kwargs)  # type: ignore[no-untyped-call]  # torch's own
        if self._window.is_step:
            factor = self._sums.factor()
            held = [p.grad for model in models for p in model.parameters() if p.grad is not None]
            torch._foreach_mul_(list({id(gradient): gradient for gradient in held}.values()), factor)

    def _trained(self) -> Sequence[nn.Module]:
        models = self._window.models or self._prepared.models
        if not self._window.models and len(models) > 1:
            what = f"{self._here}: backward(num_items=...) with {len(models)} prepared models"
            raise ConfigError(what, "say which one is trained: with accelerator.accumulate(model):")
        return models

    def unscale(self, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
        """Bring gradients to their true size, where they are scaled.

        Args:
            optimizer: whose gradients; None for all prepared optimizers.
        """
        if self._scaling.scaler is None:
            return
        given: Iterable[Optimizer] = self._prepared.optimizers if optimizer is None else _as_list(optimizer)
        self._scaling.unscale([getattr(one, "optimizer", one) for one in given])

    def to_clip(self, parameters: Iterable[Tensor] | Tensor, verb: str) -> list[Tensor]:
        """Give the parameters as a list, with gradients of their true size.

        Args:
            parameters: whose gradients.
            verb: who asks, for the message.

        Raises:
            ConfigError: none has a gradient, or gradients are scaled and more are to come.
        """
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if listed and all(parameter.grad is None for parameter in listed):
            what = f"{self._here}: {verb}: none of the {len(listed)} parameters has a gradient"
            raise ConfigError(what, "call it between accelerator.backward(loss) and optimizer.step()")
        if self._scaling.scaler is not None:
            if not self._window.is_step:
                what = f"{self._here}: {verb} on a micro-batch that does not step, with mixed_precision='fp16'"
                raise ConfigError(what, "put it under:  if accelerator.sync_gradients:")
            wanted = {id(parameter) for parameter in listed}
            inner = [one.optimizer for one in self._prepared.optimizers]
            self._scaling.unscale([one for one in inner if wanted & _ids(one)])
        return listed

    def state_dict(self) -> dict[str, Any]:
        """Give what is known of the window's losses that are sums, as plain data."""
        return self._sums.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in a window.

        Args:
            state: of ``state_dict``.
        """
        self._sums.load_state_dict(state)

    def _check_loss(self, loss: object, kwargs: dict[str, Any]) -> None:
        if not isinstance(loss, Tensor):
            what = f"{self._here}: backward() got a {type(loss).__name__}, which is no tensor"
            raise ConfigError(what, "pass the loss as it was computed, such as outputs.loss, and not float(loss)")
        if loss.numel() != 1 and kwargs.get("gradient") is None:
            what = f"{self._here}: backward() got a loss of shape {tuple(loss.shape)}, which is no scalar"
            raise ConfigError(what, "reduce it first, for example loss.mean()")
        if not loss.requires_grad:
            what = f"{self._here}: backward() got a loss that depends on no trainable parameter"
            raise ConfigError(
                what, "compute it outside of torch.no_grad() and without detach(), from trained parameters"
            )

    @property
    def _here(self) -> str:
        return f"rank {self._backend.world.rank}"


class _Sums:
    """The items of a window whose losses are sums.

    Gradients of sums are collected in units of about one micro-batch, so that they are of the size of a mean's, and
    brought to the mean over all items of all ranks when the window is complete.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._unit = 0.0  # the same on all ranks, once known
        self._items = 0.0
        self._kind: bool | None = None  # of the window: True for sums, False for means
        self._last = -1  # number of the last micro-batch whose loss was a sum
        self._complete = True

    def state_dict(self) -> dict[str, Any]:
        return {
            "unit": self._unit,
            "items": self._items,
            "kind": self._kind,
            "last": self._last,
            "complete": self._complete,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._unit, self._items = state["unit"], state["items"]
        self._kind, self._last, self._complete = state["kind"], state["last"], state["complete"]

    def check(self, window: GradientWindow, *, as_sum: bool) -> None:
        if not as_sum and self._kind is None:
            return  # sums have never been used
        here = f"rank {self._backend.world.rank}"
        if self._complete:  # a new window
            if self._last == window.number and window.is_open:
                what = f"{here}: two backward() calls in one micro-batch, and one of them has num_items"
                raise ConfigError(what, "add the losses up and call it once")
            self._kind = as_sum
            self._items = 0.0
        elif self._kind != as_sum or self._last == window.number:
            what = f"{here}: backward() with and without num_items, or twice in a micro-batch, in one window"
            raise ConfigError(what, "give num_items once for each micro-batch of a window, or for none")
        if as_sum:
            self._last = window.number
            self._complete = window.is_step

    def add(self, count: float) -> float:
        if self._unit == 0:
            largest = self._backend.all_reduce(torch.tensor(count, dtype=torch.float64), "max")
            self._unit = max(float(largest), 1.0)
        self._items += count
        return self._unit

    def factor(self) -> float:
        total = float(self._backend.all_reduce(torch.tensor(self._items, dtype=torch.float64)))
        # The exchange of gradients has divided by the number of ranks.
        return self._unit * self._backend.world.world_size / total if total else 0.0


def _count(num_items: object, here: str) -> float:
    count = num_items.item() if isinstance(num_items, Tensor) and num_items.numel() == 1 else num_items
    if isinstance(count, bool) or not isinstance(count, Real) or not 0 <= float(count) < float("inf"):
        what = f"{here}: num_items must be a number of 0 or more, not {num_items!r}"
        raise ConfigError(what, "pass how many items the loss is the sum over, such as (labels != -100).sum()")
    return float(count)


def _as_list(optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    return [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)


def _ids(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
