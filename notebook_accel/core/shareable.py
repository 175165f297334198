"""Which loaders can be shared out: plain ones, the same on every rank."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, Subset

from notebook_accel.backends.base import Backend
from notebook_accel.core.sources import of_torchdata_too
from notebook_accel.errors import ConfigError, NotAvailableError

_CHOICE = "choice of samples"


def check_base(base: DataLoader[Any], backend: Backend) -> None:
    """Refuse loaders that cannot be shared out correctly.

    Raises:
        NotAvailableError: it iterates in its own way, or out of order.
        ConfigError: its sampler shares out already.
    """
    rank, world_size = backend.world.rank, backend.world.world_size
    if type(base).__iter__ not in [kind.__iter__ for kind in of_torchdata_too(DataLoader)]:
        what = f"rank {rank}: {type(base).__name__} iterates in its own way, which sharding would leave out"
        raise NotAvailableError(what, "prepare a plain torch DataLoader, or do not prepare this one")
    if world_size > 1 and not base.in_order:
        what = f"rank {rank}: with in_order=False the ranks cannot know which rows are padding"
        raise NotAvailableError(what, "leave in_order at True, or do not prepare this DataLoader")
    for sampler in (base.batch_sampler, base.sampler, getattr(base.batch_sampler, "sampler", None)):
        if getattr(sampler, "num_replicas", 1) > 1:
            what = f"rank {rank}: {type(sampler).__name__} shares the samples out among ranks already"
            raise ConfigError(what, "leave the sampler out: prepare() does its work (use shuffle=True)")


def check_alike(base: DataLoader[Any], backend: Backend) -> None:
    """Refuse a loader that is not the same on all ranks. Collective: all ranks must call this.

    Raises:
        ConfigError: lengths, batch sizes, kinds, or the numbers that a ``Subset`` or a sampler was given differ.
    """
    if backend.world.world_size == 1:
        return
    mine = {
        "dataset": type(base.dataset).__name__,
        "samples": _length(base.dataset),
        "batch_size": base.batch_size,
        "batches": _length(base.batch_sampler),
        "drop_last": bool(base.drop_last),
        _CHOICE: _choice_of(base),
    }
    for rank, theirs in enumerate(backend.gather_object(mine)):
        if theirs != mine:
            differing = [
                name if name == _CHOICE else f"{name} {mine[name]} and {theirs[name]}"
                for name in mine
                if mine[name] != theirs[name]
            ]
            what = f"rank {backend.world.rank} and rank {rank} prepare different loaders: {', '.join(differing)}"
            hint = "build the same dataset and loader on every rank: prepare() shares it out"
            if mine | {_CHOICE: 0} == theirs | {_CHOICE: 0}:
                hint = (
                    "draw what is random alike on every rank, from the same seed: "
                    "random_split(data, lengths, torch.Generator().manual_seed(0))"
                )
            raise ConfigError(what, hint)


def _choice_of(base: DataLoader[Any]) -> int:
    """Give a number for the samples that subsets and samplers are to take: ranks may have drawn them unlike."""
    chosen = [
        getattr(sampler, "indices", None) for sampler in (base.sampler, getattr(base.batch_sampler, "sampler", None))
    ]
    dataset: Any = base.dataset
    while isinstance(dataset, Subset):
        chosen.append(dataset.indices)
        dataset = dataset.dataset
    return hash(tuple(map(_numbers, chosen)))


def _numbers(indices: Any) -> tuple[int, ...]:
    try:
        return tuple(map(int, indices.tolist() if hasattr(indices, "tolist") else indices))
    except (TypeError, ValueError):  # not numbers, or no list of them
        return ()


def _length(thing: Any) -> int | None:
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None
