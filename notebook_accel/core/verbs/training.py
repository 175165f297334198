"""Verbs of the training step."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from notebook_accel.core.accumulate import local_gradients
from notebook_accel.core.kit import Kit


class Training:
    """Verbs between a batch and the optimizer's step."""

    _kit: Kit

    @property
    def mixed_precision(self) -> str:
        """What models compute in: "no" or "bf16"."""
        return self._kit.precision.name

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of a full accumulation window."""
        return self._kit.window.steps

    @property
    def sync_gradients(self) -> bool:
        """True where the optimizer steps: on the last micro-batch of a window."""
        return self._kit.window.is_step

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute gradients, of the loss divided by the number of micro-batches in the window.

        Collective: all ranks must call this for a prepared model.

        Args:
            loss: a scalar that is a mean over the batch.
            kwargs: as for ``Tensor.backward``.
        """
        size = self._kit.window.size
        (loss if size == 1 else loss / size).backward(**kwargs)  # type: ignore[no-untyped-call]  # torch's own

    def accumulate(self, *models: nn.Module) -> AbstractContextManager[Any]:
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
        self._kit.window.next_batch()
        return nullcontext() if self._kit.window.is_step else local_gradients(models, self._kit.backend)

    def autocast(self) -> AbstractContextManager[Any]:
        """Give a block whose operations run in the run's precision, for losses outside the model."""
        return self._kit.precision.autocast()

    def clip_grad_norm_(self, parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2) -> Tensor:
        """Scale the gradients so that their common norm is at most ``max_norm``, and give the norm before.

        Args:
            parameters: whose gradients.
            max_norm: the bound.
            norm_type: ``p`` of the p-norm, may be infinite.
        """
        return nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)

    def clip_grad_value_(self, parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
        """Clamp every gradient to ``[-clip_value, clip_value]``."""
        nn.utils.clip_grad_value_(parameters, clip_value)
