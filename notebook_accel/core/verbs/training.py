"""Verbs of the training step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from notebook_accel.core.accumulate import MicroBatch, micro_batch
from notebook_accel.core.handlers import AutocastKwargs
from notebook_accel.core.kit import Kit
from notebook_accel.core.plugins import GradientAccumulationPlugin
from notebook_accel.errors import ConfigError


class Training:
    """Verbs between a batch and the optimizer's step."""

    _kit: Kit

    @property
    def mixed_precision(self) -> str:
        """What models compute in: "no", "bf16" or "fp16"."""
        return self._kit.precision.name

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What scales the loss with ``mixed_precision="fp16"``, None otherwise."""
        return self._kit.precision.scaling.scaler

    @property
    def optimizer_step_was_skipped(self) -> bool:
        """Whether the last step of a prepared optimizer was left out, because gradients were not finite."""
        return any(optimizer.step_was_skipped for optimizer in self._kit.prepared.optimizers)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of a full accumulation window.

        Raises:
            ConfigError: set to what is no number of steps, or to more than the loaders that are prepared look ahead.
        """
        return self._kit.window.steps

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, steps: int) -> None:
        GradientAccumulationPlugin(num_steps=steps)  # refuses what is no number of steps
        window = self._kit.window
        if steps > window.most_steps and self._kit.prepared.loaders:
            what = f"gradient_accumulation_steps is set to {steps} when loaders are prepared for {window.most_steps}"
            raise ConfigError(what, "set it before prepare(), so that they look ahead as far")
        window.set_steps(steps)
        if steps > 1:
            self._kit.guard.watch(f"it would step on each of the {steps} micro-batches of a window")

    @property
    def sync_gradients(self) -> bool:
        """True where the optimizer steps: on the last micro-batch of a window."""
        return self._kit.window.is_step

    @sync_gradients.setter
    def sync_gradients(self, value: bool) -> None:
        self._kit.window.is_step = value

    def backward(self, loss: Tensor, *, num_items: float | Tensor | None = None, **kwargs: Any) -> None:
        """Compute gradients, so that their average over the micro-batches and ranks of a window is stepped with.

        A loss that is a mean over its batch is divided by the number of micro-batches in the window, those that the
        window really has. Where batches hold different numbers of items, such as tokens, that is a mean of means; pass
        the sum and the number of items instead, and the gradient is that of the mean over all items of the window.

        Collective: all ranks must call this for a prepared model.

        Args:
            loss: a scalar: the mean over the batch, or with ``num_items`` the sum over the items.
            num_items: how many items ``loss`` is the sum over on this rank, 0 or more.
            kwargs: as for ``Tensor.backward``.

        Raises:
            ConfigError: the loss is no scalar or depends on nothing trainable; ``accumulate`` is missing; or only some
                of a window's losses come with ``num_items``.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator, weight = Accelerator(cpu=True), torch.ones(1, requires_grad=True)
            >>> accelerator.backward((weight * torch.tensor([1.0, 2.0, 3.0])).mean())
            >>> weight.grad
            tensor([2.])
        """
        self._kit.gradients.backward(loss, num_items, kwargs)

    def accumulate(self, *models: nn.Module) -> MicroBatch:
        """Give the block of one micro-batch: prepared optimizers and schedulers act only on a window's last.

        A window holds ``gradient_accumulation_steps`` micro-batches, or as many as are left in the loader.

        Args:
            models: the prepared models trained; their gradients are exchanged on the last micro-batch only.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
            >>> for _ in range(2):
            ...     with accelerator.accumulate():
            ...         print(accelerator.sync_gradients)
            False
            True
        """
        return micro_batch(self._kit.window, models, self._kit.backend)

    def no_sync(self, model: nn.Module | None = None) -> AbstractContextManager[Any]:
        """Give a block in which gradients stay on this rank, to be exchanged with those of a later backward pass.

        Args:
            model: a prepared model; None for all of them.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True)
            >>> with accelerator.no_sync(accelerator.prepare(nn.Linear(1, 1))):
            ...     pass  # forward and backward of all but the last micro-batch
        """
        models = self._kit.prepared.models if model is None else [model]
        return self._kit.backend.no_sync(models)

    def trigger_sync_in_backward(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Give a block whose backward pass exchanges gradients, though the forward pass was in a ``no_sync`` block.

        Args:
            model: a prepared model.
        """
        return self._kit.backend.sync_backward(model)

    def autocast(self, autocast_handler: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        """Give a block whose operations run in the run's precision, for losses outside the model.

        Args:
            autocast_handler: how the block behaves; None takes what the ``Accelerator`` was built with.
        """
        return self._kit.precision.autocast(autocast_handler)

    def unscale_gradients(self, optimizer: Optimizer | Sequence[Optimizer] | None = None) -> None:
        """Bring gradients to their true size, which ``mixed_precision="fp16"`` scales; clipping does so by itself.

        Args:
            optimizer: whose gradients; None for all prepared optimizers.
        """
        self._kit.gradients.unscale(optimizer)

    def clip_grad_norm_(self, parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2) -> Tensor:
        """Scale the gradients so that their common norm is at most ``max_norm``, and give the norm before.

        Args:
            parameters: whose gradients.
            max_norm: the bound.
            norm_type: ``p`` of the p-norm, may be infinite.

        Raises:
            ConfigError: no parameter has a gradient yet.
        """
        listed = self._kit.gradients.to_clip(parameters, "clip_grad_norm_")
        return nn.utils.clip_grad_norm_(listed, max_norm, norm_type=norm_type)

    def clip_grad_value_(self, parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
        """Clamp every gradient to ``[-clip_value, clip_value]``.

        Args:
            parameters: whose gradients.
            clip_value: the bound.

        Raises:
            ConfigError: no parameter has a gradient yet.
        """
        nn.utils.clip_grad_value_(self._kit.gradients.to_clip(parameters, "clip_grad_value_"), clip_value)
