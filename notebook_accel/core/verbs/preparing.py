"""Verbs that make the user's objects ready for the run."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from notebook_accel.core import prepare as preparing
from notebook_accel.core.kit import Kit
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer, PreparedScheduler
from notebook_accel.core.precision import unwrap_forward


class Preparing:
    """Verbs from a plain object to a prepared one and back."""

    _kit: Kit

    def prepare(self, *objects: Any) -> Any:
        """Make models, optimizers, loaders and schedulers ready for the run, in any order.

        Collective: all ranks must call this, with the same kinds of objects in the same order.

        Args:
            objects: what to make ready; anything else comes back unchanged.

        Returns:
            The one object, or a tuple of all in the order given.

        Raises:
            NotAvailableError: a loader cannot be shared out correctly.
            ConfigError: a loader's batch size cannot be split among the ranks, or its sampler shares out already.
        """
        results = tuple(preparing.prepared(thing, self._kit) for thing in objects)
        return results[0] if len(results) == 1 else results

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Give ``model`` on the device, in the run's precision, with gradients averaged over the ranks.

        Collective: all ranks must call this.
        """
        return preparing.prepared_model(model, self._kit)

    def prepare_optimizer(self, optimizer: Optimizer) -> PreparedOptimizer:
        """Give ``optimizer`` standing still while gradients are accumulated."""
        return preparing.prepared_optimizer(optimizer, self._kit)

    def prepare_data_loader(self, data_loader: DataLoader[Any]) -> ShardedLoader:
        """Give this rank's share of ``data_loader``.

        Raises:
            NotAvailableError: the loader cannot be shared out correctly.
            ConfigError: its batch size cannot be split among the ranks, or its sampler shares out already.
        """
        return preparing.prepared_loader(data_loader, self._kit)

    def prepare_scheduler(self, scheduler: LRScheduler) -> PreparedScheduler:
        """Give ``scheduler`` stepping once for every batch of the run."""
        return preparing.prepared_scheduler(scheduler, self._kit)

    def unwrap_model(self, model: nn.Module, keep_fp32_wrapper: bool = True) -> nn.Module:
        """Give the model that was prepared.

        Args:
            model: a prepared model, or any other, which comes back as it is.
            keep_fp32_wrapper: False takes the mixed precision off as well, for good: the prepared model, being the
                same object inside, then computes in 32 bit too.
        """
        inner = self._kit.backend.unwrap_model(model)
        if not keep_fp32_wrapper:
            unwrap_forward(inner)
        return inner
