"""Verbs that make the user's objects ready for the run."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from notebook_accel.core import prepare as preparing
from notebook_accel.core.dealing import Slice
from notebook_accel.core.kit import Kit
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer
from notebook_accel.core.scheduler import PreparedScheduler
from notebook_accel.errors import ConfigError


class Preparing:
    """Verbs from a plain object to a prepared one and back."""

    _kit: Kit

    def prepare(self, *objects: Any, device_placement: Sequence[bool | None] | None = None) -> Any:
        """Make models, optimizers, loaders and schedulers ready for the run, in any order.

        Collective: all ranks must call this, with the same kinds of objects in the same order.

        Args:
            objects: what to make ready; anything else comes back unchanged.
            device_placement: for each object, whether to bring it to the rank's device; None, also in the sequence,
                does as the ``Accelerator`` does.

        Returns:
            The one object, or a tuple of all in the order given.

        Raises:
            NotAvailableError: a loader cannot be shared out correctly.
            ConfigError: an object was prepared before; a loader's batch size cannot be split among the ranks, or its
                sampler shares out already; or ``device_placement`` has another length than ``objects``.

        Example:
            >>> from notebook_accel import Accelerator
            >>> model = nn.Linear(1, 1)
            >>> prepared, text = Accelerator(cpu=True).prepare(model, "anything else")
            >>> prepared is model, text
            (True, 'anything else')
        """
        placed = [None] * len(objects) if device_placement is None else list(device_placement)
        if len(placed) != len(objects):
            what = f"device_placement has {len(placed)} entries for {len(objects)} objects"
            raise ConfigError(what, "give one for each object, or leave it out")
        results = tuple(
            preparing.prepared(thing, self._kit, placed=where) for thing, where in zip(objects, placed, strict=True)
        )
        for thing, result in zip(objects, results, strict=True):
            preparing.attach(thing, result, self._kit)
        return results[0] if len(results) == 1 else results

    def prepare_model(
        self, model: nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> nn.Module:
        """Give ``model`` on the device, in the run's precision, with gradients averaged over the ranks.

        Collective: all ranks must call this.

        Args:
            model: any model.
            device_placement: bring it to the rank's device; None does as the ``Accelerator`` does.
            evaluation_mode: it is not trained: leave its gradients alone.

        Raises:
            ConfigError: it was prepared before.
        """
        return preparing.prepared_model(model, self._kit, placed=device_placement, trained=not evaluation_mode)

    def prepare_optimizer(self, optimizer: Optimizer, device_placement: bool | None = None) -> PreparedOptimizer:
        """Give ``optimizer`` standing still while gradients are accumulated.

        Args:
            optimizer: any torch optimizer.
            device_placement: of no effect: its state is where its parameters are.

        Raises:
            ConfigError: it was prepared before.
        """
        ready = preparing.prepared_optimizer(optimizer, self._kit, placed=device_placement)
        preparing.attach(optimizer, ready, self._kit)
        return ready

    def prepare_data_loader(
        self,
        data_loader: DataLoader[Any],
        device_placement: bool | None = None,
        slice_fn_for_dispatch: Slice | None = None,
    ) -> ShardedLoader:
        """Give this rank's share of ``data_loader``.

        Args:
            data_loader: a plain loader.
            device_placement: bring batches to the rank's device; None does as the ``Accelerator`` does.
            slice_fn_for_dispatch: takes rows, given as a slice, out of a batch that is split after it was read.

        Raises:
            NotAvailableError: the loader cannot be shared out correctly.
            ConfigError: its batch size cannot be split among the ranks, or its sampler shares out already.
        """
        return preparing.prepared_loader(
            data_loader, self._kit, placed=device_placement, slice_rows=slice_fn_for_dispatch
        )

    def prepare_scheduler(self, scheduler: LRScheduler) -> PreparedScheduler:
        """Give ``scheduler`` following its optimizer, once for every batch of the run.

        Args:
            scheduler: any torch scheduler.

        Raises:
            ConfigError: it was prepared before.
        """
        return preparing.prepared_scheduler(scheduler, self._kit)

    def unwrap_model(
        self, model: nn.Module, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
    ) -> nn.Module:
        """Give the model that was prepared.

        Args:
            model: a prepared model, or any other, which comes back as it is.
            keep_fp32_wrapper: False takes the mixed precision off as well, for good: the prepared model, being the
                same object inside, then computes in 32 bit too.
            keep_torch_compile: give a model that was compiled before it was prepared as it was; what ``prepare``
                compiled comes back plain.
        """
        kit = self._kit
        return preparing.unwrapped_model(model, kit, keep_precision=keep_fp32_wrapper, keep_compiled=keep_torch_compile)

    def free_memory(self, *objects: Any) -> list[None]:
        """Let go of everything that was prepared, and give memory back to the device.

        Args:
            objects: names to let go of as well, by assigning what is returned.

        Returns:
            None for each object.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True)
            >>> model = accelerator.prepare(nn.Linear(1, 1))
            >>> (model,) = accelerator.free_memory(model)
            >>> model is None
            True
        """
        count = len(objects)
        del objects
        self._kit.prepared.clear()
        self._kit.window.start_over()
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache() if hasattr(torch.accelerator, "empty_cache") else torch.cuda.empty_cache()
        return [None] * count

    def clear(self, *objects: Any) -> list[None]:
        """Do as ``free_memory`` does.

        Args:
            objects: names to let go of as well.
        """
        return self.free_memory(*objects)
