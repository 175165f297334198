"""Local SGD: ranks train on their own and average their parameters every few steps."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self


class LocalSGD:
    """A block in which gradients stay on their rank, and parameters are averaged every ``local_sgd_steps`` steps.

    Collective: all ranks must enter it, call ``step`` equally often, and leave it.

    Args:
        accelerator: which prepared the model.
        model: a prepared model.
        local_sgd_steps: optimizer steps between averages, 1 or more.
        enabled: False changes nothing.

    Raises:
        ConfigError: ``local_sgd_steps`` is not 1 or more.

    Source: https://arxiv.org/abs/1805.09767

    Example:
        >>> from notebook_accel import Accelerator
        >>> accelerator = Accelerator(cpu=True)
        >>> model = accelerator.prepare(nn.Linear(1, 1))
        >>> with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=8) as local_sgd:
        ...     local_sgd.step()  # after each optimizer.step()
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module, local_sgd_steps: int, enabled: bool = True) -> None:
        if local_sgd_steps < 1:
            raise ConfigError(f"local_sgd_steps is {local_sgd_steps!r}", "use a whole number of 1 or more")
        self.enabled = enabled and accelerator.num_processes > 1
        self.num_steps = 0
        self._accelerator = accelerator
        self._model = model
        self._every = local_sgd_steps
        self._block: Any = None

    def __enter__(self) -> Self:
        """Begin to train apart."""
        if self.enabled:
            self._block = self._accelerator.no_sync(self._model)
            self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Average the parameters, unless the block failed, and go on together."""
        if self.enabled:
            if error is None:
                self._average()
            self._block.__exit__(kind, error, traceback)

    def step(self) -> None:
        """Count an optimizer step; average where it is time. Collective: all ranks must call this."""
        if not self._accelerator.sync_gradients:
            return
        self.num_steps += 1
        if self.enabled and self.num_steps % self._every == 0:
            self._average()

    @torch.no_grad()
    def _average(self) -> None:
        own = {name: parameter.data for name, parameter in self._model.named_parameters()}
        for name, mean in self._accelerator.reduce(own, reduction="mean").items():
            own[name].copy_(mean)
