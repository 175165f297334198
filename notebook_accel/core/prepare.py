"""What ``Accelerator.prepare`` does with each kind of object."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from notebook_accel.backends.compiled import uncompiled
from notebook_accel.core.dealing import Slice
from notebook_accel.core.kit import Kit
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer
from notebook_accel.core.precision import AutocastForward, unwrap_forward
from notebook_accel.core.scheduler import PreparedScheduler
from notebook_accel.core.stateful import made_loader
from notebook_accel.errors import ConfigError


@singledispatch
def prepared(thing: Any, kit: Kit, *, placed: bool | None = None) -> Any:
    """Give ``thing`` made ready for the run; what is unknown, or ready already, comes back unchanged.

    Collective: all ranks must call this for models.

    Args:
        thing: a model, an optimizer, a ``DataLoader``, a scheduler, or anything else.
        kit: what to make it ready with.
        placed: bring it, or what it gives, to the rank's device; None does as the ``Accelerator`` does.

    Raises:
        ConfigError: it was prepared before, and this is not what came of it.
    """
    del kit, placed
    return thing


@prepared.register
def prepared_model(model: nn.Module, kit: Kit, *, placed: bool | None = None, trained: bool = True) -> nn.Module:
    """Give ``model`` on the rank's device, in the run's precision, with gradients averaged over the ranks.

    Collective: all ranks must call this.

    Args:
        model: any model.
        kit: what to make it ready with.
        placed: bring it to the rank's device; None does as the ``Accelerator`` does.
        trained: False leaves gradients alone.

    Raises:
        ConfigError: it was prepared before, and this is not what came of it.
    """
    if any(model is known for known in kit.prepared.models):
        return model
    bare = unwrapped_model(model, kit)
    lowered = bare.__dict__.get("forward")
    if isinstance(lowered, AutocastForward) and lowered.precision.name != kit.precision.name:
        what = f"rank {kit.backend.world.rank}: this {type(bare).__name__} computes in {lowered.precision.name}"
        what += f", as another Accelerator prepared it, and this one has mixed_precision={kit.precision.name!r}"
        raise ConfigError(
            what, "use the other one, or take its precision off: unwrap_model(m, keep_fp32_wrapper=False)"
        )
    if any(unwrapped_model(known, kit) is bare for known in kit.prepared.models):
        what = f"rank {kit.backend.world.rank}: this {type(bare).__name__} was prepared before"
        raise ConfigError(what, "use what prepare() gave then; prepare each model once")
    if kit.settings.device_placement if placed is None else placed:
        model = kit.backend.move_model(model)
    kit.precision.wrap_forward(kit.backend.unwrap_model(model))
    if trained:
        model = kit.backend.wrap_model(model, kit.wrapping)
    model = kit.settings.dynamo.compiled(model)
    kit.prepared.models.append(model)
    return model


def unwrapped_model(
    model: nn.Module, kit: Kit, *, keep_precision: bool = True, keep_compiled: bool = False
) -> nn.Module:
    """Give the model that was prepared.

    Args:
        model: a prepared model, or any other, which comes back as it is.
        kit: what it was made ready with.
        keep_precision: False takes the mixed precision off as well, for good.
        keep_compiled: give a model that was compiled when it came to ``prepare`` as it came.
    """
    inner = kit.backend.unwrap_model(uncompiled(model) if kit.settings.dynamo.is_on else model)
    bare = uncompiled(inner)
    if not keep_precision:
        unwrap_forward(inner)
        unwrap_forward(bare)
    return inner if keep_compiled else bare


@prepared.register
def prepared_optimizer(optimizer: Optimizer, kit: Kit, *, placed: bool | None = None) -> PreparedOptimizer:
    """Give ``optimizer`` standing still while gradients are accumulated.

    Args:
        optimizer: any torch optimizer; its state is where its parameters are.
        kit: what to make it ready with.
        placed: of no effect: its state follows the parameters.

    Raises:
        ConfigError: it was prepared before, and this is not what came of it.
    """
    del placed
    if isinstance(optimizer, PreparedOptimizer):
        _check_own(optimizer, optimizer.optimizer, kit)
        return optimizer
    if any(known.optimizer is optimizer for known in kit.prepared.optimizers):
        what = f"rank {kit.backend.world.rank}: this {type(optimizer).__name__} was prepared before"
        raise ConfigError(what, "use what prepare() gave then; prepare each optimizer once")
    ready = PreparedOptimizer(optimizer, kit.window, kit.precision.scaling)
    kit.prepared.optimizers.append(ready)
    return ready


def attach(before: Any, after: Any, kit: Kit) -> None:
    """Let a newly prepared optimizer know what became of the parameters; with its model prepared.

    Raises:
        ConfigError: it holds parameters that its device does not have.
    """
    if isinstance(after, PreparedOptimizer) and after is not before:
        kit.backend.attach(after.optimizer)


@prepared.register
def prepared_scheduler(scheduler: LRScheduler, kit: Kit, *, placed: bool | None = None) -> PreparedScheduler:
    """Give ``scheduler`` following its optimizer, once for every batch of the run."""
    del placed
    if isinstance(scheduler, PreparedScheduler):
        _check_own(scheduler, scheduler.scheduler, kit)
        return scheduler
    if any(known.scheduler is scheduler for known in kit.prepared.schedulers):
        what = f"rank {kit.backend.world.rank}: this {type(scheduler).__name__} was prepared before"
        raise ConfigError(what, "use what prepare() gave then; prepare each scheduler once")
    steps: int | None = 1 if kit.settings.loaders.split_batches else kit.backend.world.world_size
    if not kit.settings.step_scheduler_with_optimizer:
        steps = None
    ready = PreparedScheduler(scheduler, kit.window, kit.precision.scaling, steps)
    kit.prepared.schedulers.append(ready)
    return ready


def _check_own(ready: PreparedOptimizer | PreparedScheduler, inner: object, kit: Kit) -> None:
    if not ready.follows(kit.window):
        what = f"rank {kit.backend.world.rank}: this {type(inner).__name__} was prepared by another Accelerator"
        raise ConfigError(what, "it steps when that one says so: use one Accelerator for all that a loop trains with")


@prepared.register(DataLoader)
def prepared_loader(
    loader: DataLoader[Any], kit: Kit, *, placed: bool | None = None, slice_rows: Slice | None = None
) -> ShardedLoader:
    """Give this rank's share of ``loader``.

    Args:
        loader: a plain loader.
        kit: what to make it ready with.
        placed: bring batches to the rank's device; None does as the ``Accelerator`` does.
        slice_rows: takes rows out of a batch that is split after it was read.

    Raises:
        NotAvailableError: the loader cannot be shared out correctly.
        ConfigError: its batch size cannot be split among the ranks, or its sampler shares out already.
    """
    if isinstance(loader, ShardedLoader):
        return loader
    ready = made_loader(loader, kit.backend, kit.watch, kit.loader_options(placed=placed, slice_rows=slice_rows))
    kit.prepared.loaders.append(ready)
    return ready
