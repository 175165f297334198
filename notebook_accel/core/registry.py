"""What an ``Accelerator`` has made ready, in the order in which it was prepared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer
from notebook_accel.core.scheduler import PreparedScheduler


@dataclass
class Prepared:
    """Everything that was prepared.

    Attributes:
        models: as the loop uses them, wrapped.
        optimizers: wrapped.
        schedulers: wrapped.
        loaders: this rank's shares.
        custom: objects that the user registered for checkpoints.
    """

    models: list[nn.Module] = field(default_factory=list)
    optimizers: list[PreparedOptimizer] = field(default_factory=list)
    schedulers: list[PreparedScheduler] = field(default_factory=list)
    loaders: list[ShardedLoader] = field(default_factory=list)
    custom: list[Any] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        for things in (self.models, self.optimizers, self.schedulers, self.loaders, self.custom):
            things.clear()
