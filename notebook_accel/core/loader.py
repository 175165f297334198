"""``ShardedLoader``: a rank's share of a ``DataLoader``, on the rank's device."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from notebook_accel.backends.base import Backend
from notebook_accel.core import tree
from notebook_accel.core.epoch import UNKNOWN, EpochLedger, EpochWatch
from notebook_accel.core.rng import same_draws
from notebook_accel.core.sharding import ShardedBatchSampler, Sharding
from notebook_accel.errors import ConfigError, NotAvailableError

_KEPT = (
    "num_workers",
    "collate_fn",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """How an ``Accelerator`` shares loaders out.

    Attributes:
        split_batches: cut every batch into one part per rank instead of giving whole batches in turn.
        even_batches: fill the last round up with samples from the start of the epoch.
        device: where batches are brought; None leaves them where they are.
        lookahead: number of batches known beyond the one in hand, at least 1.
    """

    split_batches: bool = False
    even_batches: bool = True
    device: torch.device | None = None
    lookahead: int = 1


class ShardedLoader(DataLoader[Any]):
    """A rank's share of ``base``.

    With ``W`` ranks, rank ``r`` takes batches ``r``, ``r + W``, ... of ``base``, or its part of every batch where
    batches are split. The order is rank 0's order on every rank: when an epoch starts, samplers draw from rank 0's
    generators. All settings of ``base`` are kept.

    Args:
        base: a plain ``DataLoader``.
        backend: the connection to the other ranks.
        watch: where passes over this loader are noted.
        options: how to share out.

    Collective: where the order is random, all ranks must start an epoch together.

    Raises:
        NotAvailableError: ``base`` cannot be shared out correctly.
        ConfigError: the batch size cannot be split among the ranks, or the sampler shares out already.
    """

    def __init__(self, base: DataLoader[Any], backend: Backend, watch: EpochWatch, options: LoaderOptions) -> None:
        _refuse(base, backend)
        settings: dict[str, Any] = {name: getattr(base, name) for name in _KEPT}
        self._sharded: ShardedBatchSampler | None = None
        if isinstance(base.dataset, IterableDataset):
            settings.update(batch_size=base.batch_size, drop_last=base.drop_last)
        else:
            self._sharded = _shard(base, backend, options)
            settings.update(batch_sampler=self._sharded)
        if base.pin_memory_device:
            settings.update(pin_memory_device=base.pin_memory_device)
        super().__init__(base.dataset, **settings)
        self._backend = backend
        self._options = options
        self._watch = watch
        self._sources = (getattr(base, "batch_sampler", None), base.sampler, base.dataset)
        # What the user's code may read from a loader; the class guards these names against assignment.
        size = base.batch_size
        split = size is not None and options.split_batches
        rank_size = cast("int", size) // backend.world.world_size if split else size
        self.__dict__.update(batch_size=rank_size, sampler=base.sampler, drop_last=base.drop_last)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base class promises its private iterator
        """Give this rank's batches, on its device."""
        ledger = EpochLedger(self._watch)
        batches = self._batches(ledger)
        device, pinned, advance = self._options.device, bool(self.pin_memory), ledger.advance
        if device is not None:
            batches = self._backend.feed(batches, functools.partial(tree.move, device=device, non_blocking=pinned))
        try:
            for batch in batches:
                advance()
                yield batch
        finally:
            if isinstance(batches, Generator):
                batches.close()
            ledger.close()

    def _batches(self, ledger: EpochLedger) -> Iterator[Any]:
        if self._sharded is None:
            return _announced(super().__iter__(), ledger, self._options.lookahead)
        self._sharded.record_in(ledger)
        return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch's number on to the sampler and the dataset where they want it.

        Args:
            epoch: 0-based.
        """
        for source in self._sources:
            if source is not None and hasattr(source, "set_epoch"):
                source.set_epoch(epoch)


def _announced(batches: Iterator[Any], ledger: EpochLedger, lookahead: int) -> Iterator[Any]:
    # A stream tells its end only when it is read, so batches are held back as far as the loop wants to see.
    held: deque[Any] = deque()
    for batch in batches:
        held.append(batch)
        ledger.announce(UNKNOWN)
        if len(held) > lookahead:
            yield held.popleft()
    yield from held


def _refuse(base: DataLoader[Any], backend: Backend) -> None:
    rank, world_size = backend.world.rank, backend.world.world_size
    if type(base).__iter__ is not DataLoader.__iter__:
        what = f"rank {rank}: {type(base).__name__} iterates in its own way, which sharding would leave out"
        raise NotAvailableError(what, "prepare a plain torch DataLoader, or do not prepare this one")
    if isinstance(base.dataset, IterableDataset):
        if world_size > 1:
            what = f"rank {rank}: sharing an IterableDataset among {world_size} ranks is not built yet"
            raise NotAvailableError(what, "let the dataset itself give every rank its part, and do not prepare it")
        return
    if base.batch_sampler is None:
        what = f"rank {rank}: a DataLoader with batch_size=None has no batches to share out"
        raise NotAvailableError(what, "give it a batch_size or a batch_sampler")
    if world_size > 1 and not base.in_order:
        what = f"rank {rank}: with in_order=False the ranks cannot know which rows are padding"
        raise NotAvailableError(what, "leave in_order at True, or do not prepare this DataLoader")
    for sampler in (base.batch_sampler, base.sampler, getattr(base.batch_sampler, "sampler", None)):
        if getattr(sampler, "num_replicas", 1) > 1:
            what = f"rank {rank}: {type(sampler).__name__} shares the samples out among ranks already"
            raise ConfigError(what, "leave the sampler out: prepare() does its work (use shuffle=True)")


def _shard(base: DataLoader[Any], backend: Backend, options: LoaderOptions) -> ShardedBatchSampler:
    batches, world = cast("Iterable[Sequence[Any]]", base.batch_sampler), backend.world
    size = getattr(batches, "batch_size", None)
    plan = Sharding(
        rank=world.rank,
        world_size=world.world_size,
        batch_size=size if isinstance(size, int) else None,
        drop_last=bool(getattr(batches, "drop_last", False)),
        split=options.split_batches,
        even=options.even_batches and world.world_size > 1,
    )
    if plan.split and (plan.batch_size is None or plan.batch_size % world.world_size):
        what = f"rank {world.rank}: batches of {plan.batch_size} samples cannot be split among {world.world_size} ranks"
        raise ConfigError(what, f"make the batch size a multiple of {world.world_size}, or leave split_batches out")
    in_fixed_order = type(batches) is BatchSampler and type(batches.sampler) is SequentialSampler
    found = (base.generator, *(getattr(source, "generator", None) for source in (base.sampler, batches)))
    generators = {id(found_one): found_one for found_one in found if isinstance(found_one, torch.Generator)}

    def first_draw() -> AbstractContextManager[None]:
        return nullcontext() if in_fixed_order else same_draws(backend, tuple(generators.values()))

    return ShardedBatchSampler(batches, plan, first_draw, options.lookahead)
