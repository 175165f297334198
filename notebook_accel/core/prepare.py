"""What ``Accelerator.prepare`` does with each kind of object."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from notebook_accel.core.kit import Kit
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer, PreparedScheduler


@singledispatch
def prepared(thing: Any, kit: Kit) -> Any:
    """Give ``thing`` made ready for the run; what is unknown, or ready already, comes back unchanged.

    Collective: all ranks must call this for models.

    Args:
        thing: a model, an optimizer, a ``DataLoader``, a scheduler, or anything else.
        kit: what to make it ready with.
    """
    del kit
    return thing


@prepared.register
def prepared_model(model: nn.Module, kit: Kit) -> nn.Module:
    """Give ``model`` on the rank's device, in the run's precision, with gradients averaged over the ranks.

    Collective: all ranks must call this.
    """
    if kit.backend.unwrap_model(model) is not model:
        return model
    if kit.settings.device_placement:
        model = model.to(kit.backend.device)
    kit.precision.wrap_forward(model)
    return kit.backend.wrap_model(model)


@prepared.register
def prepared_optimizer(optimizer: Optimizer, kit: Kit) -> PreparedOptimizer:
    """Give ``optimizer`` standing still while gradients are accumulated."""
    return optimizer if isinstance(optimizer, PreparedOptimizer) else PreparedOptimizer(optimizer, kit.window)


@prepared.register
def prepared_scheduler(scheduler: LRScheduler, kit: Kit) -> PreparedScheduler:
    """Give ``scheduler`` stepping once for every batch of the run."""
    if isinstance(scheduler, PreparedScheduler):
        return scheduler
    steps = 1 if kit.settings.loaders.split_batches else kit.backend.world.world_size
    return PreparedScheduler(scheduler, kit.window, steps)


@prepared.register(DataLoader)
def prepared_loader(loader: DataLoader[Any], kit: Kit) -> ShardedLoader:
    """Give this rank's share of ``loader``.

    Raises:
        NotAvailableError: the loader cannot be shared out correctly.
        ConfigError: its batch size cannot be split among the ranks, or its sampler shares out already.
    """
    if isinstance(loader, ShardedLoader):
        return loader
    return ShardedLoader(loader, kit.backend, kit.watch, kit.loader_options)
