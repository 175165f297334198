"""Where a rank's batches come from: picked by number, read by all, or read by rank 0 and sent."""

from __future__ import annotations

import itertools
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from notebook_accel.backends.base import Backend
from notebook_accel.core.dealing import NOTHING, Hand, Nothing, Slice, hands
from notebook_accel.core.epoch import EpochLedger
from notebook_accel.core.plugins import DataLoaderConfiguration
from notebook_accel.core.rng import same_draws, synchronize_rng_states
from notebook_accel.core.samplers import SeedableRandomSampler
from notebook_accel.core.seeding import SeededBatch
from notebook_accel.core.sharding import Expected, ShardedBatchSampler, Sharding
from notebook_accel.errors import ConfigError, NotAvailableError

Begin = Callable[[], Iterator[Any]]


class Source(ABC):
    """Where a rank's batches come from.

    Attributes:
        plan: how the batches of the run are shared out.
        arguments: what ``DataLoader`` is built with, besides the settings that are kept.
        samplers: what wants to know the epoch.
        generators: what is drawn from, besides torch's own generator.
        rank_batch_size: samples of one rank's batch, None where that is not fixed.
        shards: the numbers of the samples, None for a stream.
        reads_per_batch: how many batches are read, where they are read, for one of this rank's.
    """

    plan: Sharding
    arguments: dict[str, Any]
    samplers: Sequence[Any]
    generators: Sequence[torch.Generator]
    rank_batch_size: int | None
    shards: ShardedBatchSampler | None
    reads_per_batch: int

    @abstractmethod
    def start(self, begin: Begin, expected: Expected) -> Iterator[Any]:
        """Begin a pass.

        Args:
            begin: begins a pass over the ``DataLoader`` that was built.
            expected: how the pass is made.
        """

    @abstractmethod
    def length(self, of_base: Callable[[], int]) -> int:
        """Give the number of batches of a whole epoch of this rank."""

    def synchronise(self, rng_types: Sequence[str] | None) -> None:
        """Bring generators that the user named in step. Collective where there are some."""
        if rng_types:
            generator = self.generators[0] if self.generators else None
            usable = [kind for kind in rng_types if kind != "generator" or generator is not None]
            synchronize_rng_states(usable, generator)


class IndexShards(Source):
    """Samples are picked by number: no rank reads another's.

    Args:
        batches: sampler of the run's batches.
        plan: how they are shared out.
        first_draw: a block in which all ranks draw the same.
        single: samples are not put together to batches.
    """

    def __init__(
        self, batches: Any, plan: Sharding, first_draw: Callable[[], AbstractContextManager[None]], *, single: bool
    ) -> None:
        self.shards: ShardedBatchSampler = ShardedBatchSampler(batches, plan, first_draw)
        self.reads_per_batch = 1
        self.arguments = {"batch_size": None, "sampler": _Flat(self.shards)} if single else {}
        if not single:
            self.arguments = {"batch_sampler": self.shards}
        size = plan.batch_size
        self.rank_batch_size = size // plan.world_size if size is not None and plan.split else size
        if single:
            self.rank_batch_size = None

    @property
    def plan(self) -> Sharding:
        """How the batches of the run are shared out."""
        return self.shards.plan

    @plan.setter
    def plan(self, plan: Sharding) -> None:
        self.shards.plan = plan

    def start(self, begin: Begin, expected: Expected) -> Iterator[Any]:
        """Begin a pass; samples that are left out are not read."""
        self.shards.expect(expected)
        return _drawn(begin, self.shards)

    def length(self, of_base: Callable[[], int]) -> int:
        """Give the number of batches of a whole epoch of this rank."""
        del of_base
        return len(self.shards)


def _drawn(begin: Begin, shards: ShardedBatchSampler) -> Iterator[Any]:
    """Begin a pass and draw its order now, before anything is read."""
    stream = begin()
    assert shards.walk is not None
    shards.walk.draw()
    return stream


class _Flat(Sampler[Any]):
    def __init__(self, batches: ShardedBatchSampler) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return map(_single, iter(self._batches))

    def __len__(self) -> int:
        return len(self._batches)


def _single(batch: Any) -> Any:
    if isinstance(batch, SeededBatch):
        return SeededBatch(batch.numbers[0], batch.seed)
    return batch[0]


class ReadShards(Source):
    """Batches are read one after the other.

    Args:
        plan: how they are shared out.
        backend: the connection to the other ranks; None where each rank reads everything and keeps its own.
        numbers: the order of data that can be picked by number, None of a stream.
        slice_rows: takes rows out of a batch.
    """

    def __init__(
        self,
        plan: Sharding,
        backend: Backend | None,
        numbers: ShardedBatchSampler | None,
        slice_rows: Slice | None,
    ) -> None:
        self.plan = plan
        self.samplers = ()
        self.generators = ()
        self.shards = numbers
        self.reads_per_batch = 1 if plan.split else plan.world_size
        self._backend = backend
        self._slice_rows = slice_rows
        size = plan.batch_size
        self.rank_batch_size = size // plan.world_size if size is not None and plan.split else size

    def start(self, begin: Begin, expected: Expected) -> Iterator[Any]:
        """Begin a pass; what is left out of a stream is read all the same."""
        reads = self._backend is None or self._backend.world.is_main
        dealt = self._dealt(begin, expected) if reads else None
        if self._backend is not None:
            dealt = _sent(dealt, self._backend)
        assert dealt is not None
        return self._held(dealt, expected)

    def _dealt(self, begin: Begin, expected: Expected) -> Iterator[Hand]:
        if self.shards is None:
            return itertools.islice(hands(begin(), self.plan, self._slice_rows), expected.skip, None)
        # The ledger of the numbers is nobody's: the batches are announced when they are dealt.
        left_out = expected.skip * (1 if self.plan.split else self.plan.world_size)
        self.shards.expect(replace(expected, ledger=EpochLedger(), skip=left_out, lookahead=1))
        return hands(_drawn(begin, self.shards), self.plan, self._slice_rows)

    def _held(self, dealt: Iterator[Hand], expected: Expected) -> Iterator[Any]:
        # A stream tells its end only when it is read, so batches are held back as far as the loop wants to see.
        held: deque[Any] = deque()
        for batches, its_round in dealt:
            mine = batches[self.plan.rank]
            if isinstance(mine, Nothing):
                break
            held.append(mine)
            expected.ledger.announce(its_round)
            if len(held) > expected.lookahead:
                yield held.popleft()
        yield from held

    def length(self, of_base: Callable[[], int]) -> int:
        """Give the number of batches of a whole epoch of this rank."""
        return self.plan.rounds_of(of_base())


def _sent(stream: Iterator[Hand] | None, backend: Backend) -> Iterator[Hand]:
    """Give rank 0's hands on every rank, each with this rank's batch only. Collective: all ranks must read it."""
    rank = backend.world.rank
    while True:
        messages: list[Any] | None = None
        if stream is not None:
            messages = _messages(stream, backend.world.world_size)
        batch, its_round, error, is_last = backend.scatter_object(messages)
        if error is not None:
            raise error
        if its_round is None:
            return
        hand: list[Any] = [NOTHING] * backend.world.world_size
        if batch is not None:
            hand[rank] = batch[0]
        yield Hand(hand, its_round)
        if is_last:  # a rank without a batch in it asks for no other
            return


def _messages(stream: Iterator[Hand], world_size: int) -> list[Any]:
    try:
        hand = next(stream, None)
    except Exception as error:  # noqa: BLE001 - whatever it is, no rank may wait for what does not come
        told = ConfigError(
            f"rank 0, which reads for all, failed: {type(error).__name__}: {error}", "see rank 0's error"
        )
        return [(None, None, error, True), *[(None, None, told, True)] * (world_size - 1)]
    if hand is None:
        return [(None, None, None, True)] * world_size
    is_last = any(isinstance(batch, Nothing) for batch in hand.batches)
    return [(None if isinstance(batch, Nothing) else (batch,), hand.round, None, is_last) for batch in hand.batches]


def index_shards(base: DataLoader[Any], backend: Backend, config: DataLoaderConfiguration) -> Source:
    """Give the source for data that is picked by number.

    Raises:
        ConfigError: batches cannot be split among the ranks.
    """
    single = base.batch_sampler is None
    batches: Any = _Singles(base.sampler) if single else base.batch_sampler
    size = getattr(batches, "batch_size", None)
    plan = _plan(backend, config, size if isinstance(size, int) else None, bool(getattr(batches, "drop_last", False)))
    if not single and plan.split and plan.batch_size is None:
        raise _not_split(plan)
    if config.use_seedable_sampler and isinstance(getattr(batches, "sampler", None), of_torchdata_too(RandomSampler)):
        batches = _seeded(batches, backend, config.data_seed)
    samplers = (batches, getattr(batches, "sampler", None))
    fixed = type(batches) in (BatchSampler, _Singles) and type(batches.sampler) in (
        SequentialSampler,
        SeedableRandomSampler,
    )
    generators = _generators_of(base, batches)

    def first_draw() -> AbstractContextManager[None]:
        return nullcontext() if fixed else same_draws(backend, generators)

    source = IndexShards(batches, plan, first_draw, single=single)
    source.samplers, source.generators = samplers, generators
    return source


def read_shards(
    base: DataLoader[Any], backend: Backend, config: DataLoaderConfiguration, slice_rows: Slice | None
) -> Source:
    """Give the source for data that is read one after the other."""
    size = base.batch_size
    plan = _plan(backend, config, size, bool(base.drop_last))
    dispatches = plan.world_size > 1 and config.dispatch_batches is not False
    reader = backend if dispatches else None
    if isinstance(base.dataset, IterableDataset):
        source = ReadShards(plan, reader, None, slice_rows)
        source.arguments = {"batch_size": size, "drop_last": base.drop_last}
        return source
    single = base.batch_sampler is None
    batches: Any = _Singles(base.sampler) if single else base.batch_sampler
    if config.use_seedable_sampler and isinstance(getattr(batches, "sampler", None), of_torchdata_too(RandomSampler)):
        batches = _seeded(batches, backend, config.data_seed)
    alone = replace(plan, rank=0, world_size=1, split=False, even=False)
    numbers = ShardedBatchSampler(batches, alone, nullcontext)
    source = ReadShards(plan, reader, numbers, slice_rows)
    source.arguments = {"batch_size": None, "sampler": _Flat(numbers)} if single else {"batch_sampler": numbers}
    source.samplers = (batches, getattr(batches, "sampler", None))
    source.generators = _generators_of(base, batches)
    return source


def _generators_of(base: DataLoader[Any], batches: Any) -> tuple[torch.Generator, ...]:
    found = (base.generator, *(getattr(source, "generator", None) for source in (base.sampler, batches)))
    return tuple({id(one): one for one in found if isinstance(one, torch.Generator)}.values())


def _plan(backend: Backend, config: DataLoaderConfiguration, size: int | None, drop_last: bool) -> Sharding:
    world = backend.world
    if config.pad_last_batch and size is None:
        what = f"rank {world.rank}: pad_last_batch, but the loader does not say how many samples a whole batch has"
        raise ConfigError(what, "give it a batch_size, or a batch_sampler that has one, or leave pad_last_batch out")
    plan = Sharding(
        rank=world.rank,
        world_size=world.world_size,
        batch_size=size,
        drop_last=drop_last,
        split=config.split_batches and world.world_size > 1,
        even=config.even_batches and (world.world_size > 1 or config.pad_last_batch),
        full=config.pad_last_batch,
    )
    if plan.split and size is not None and size % world.world_size:
        raise _not_split(plan)
    return plan


def _not_split(plan: Sharding) -> ConfigError:
    what = f"rank {plan.rank}: batches of {plan.batch_size} samples cannot be split among {plan.world_size} ranks"
    return ConfigError(what, f"make the batch size a multiple of {plan.world_size}, or leave split_batches out")


class _Singles:
    """Every sample is a batch."""

    drop_last = False

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[list[Any]]:
        return ([sample] for sample in self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # a sampler without length raises


def _seeded(batches: Any, backend: Backend, seed: int | None) -> Any:
    if seed is None:
        seed = backend.broadcast_object(int(torch.empty((), dtype=torch.int64).random_().item()) >> 1)
    sampler = SeedableRandomSampler(batches.sampler, cast("int", seed))
    if isinstance(batches, _Singles):
        return _Singles(sampler)
    if type(batches) not in of_torchdata_too(BatchSampler):
        what = f"rank {backend.world.rank}: use_seedable_sampler, but the loader has a {type(batches).__name__}"
        raise NotAvailableError(what, "leave use_seedable_sampler out, or batch_sampler")
    return BatchSampler(sampler, batches.batch_size, batches.drop_last)


def of_torchdata_too(kind: type[Any]) -> tuple[type[Any], ...]:
    """Give one of torch's classes and, where torchdata is in use, the one that stands for it there."""
    theirs: Any = sys.modules.get("torchdata.stateful_dataloader")
    if theirs is None:
        return (kind,)
    samplers = theirs.sampler
    standing = {
        DataLoader: theirs.StatefulDataLoader,
        RandomSampler: samplers.RandomSampler,
        BatchSampler: samplers.BatchSampler,
    }
    return kind, standing[kind]
