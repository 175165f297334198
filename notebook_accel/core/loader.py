"""``ShardedLoader``: a rank's share of a ``DataLoader``, on the rank's device."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from notebook_accel.backends.base import Backend
from notebook_accel.core.crashes import worker_crash
from notebook_accel.core.dealing import Slice
from notebook_accel.core.epoch import EpochLedger, EpochWatch
from notebook_accel.core.lengths import Padding
from notebook_accel.core.plugins import DataLoaderConfiguration
from notebook_accel.core.position import Position
from notebook_accel.core.samplers import SeedableRandomSampler
from notebook_accel.core.sharding import Expected
from notebook_accel.core.shareable import check_alike, check_base
from notebook_accel.core.sources import Source, index_shards, read_shards
from notebook_accel.core.transfer import transferred
from notebook_accel.errors import ConfigError, NoLengthError

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
        config: what the user asked for.
        device: where batches are brought; None leaves them where they are.
        lookahead: number of batches known beyond the one in hand, at least 1.
        slice_rows: takes rows out of a batch that is split after it was read; that of tensors where left out.
        rng_types: generators brought in step when an epoch starts; None for those that the loader draws from.
    """

    config: DataLoaderConfiguration = field(default_factory=DataLoaderConfiguration)
    device: torch.device | None = None
    lookahead: int = 1
    slice_rows: Slice | None = None
    rng_types: tuple[str, ...] | None = None


class ShardedLoader(DataLoader[Any]):
    """A rank's share of ``base``.

    With ``W`` ranks, rank ``r`` takes batches ``r``, ``r + W``, ... of ``base``, or its part of every batch where
    batches are split. The order is rank 0's order on every rank: when an epoch starts, samplers draw from rank 0's
    generators. All settings of ``base`` are kept.

    Data that cannot be picked by number is read by rank 0, which sends the others their batches, or, with
    ``dispatch_batches=False``, by all ranks, each of which keeps its own.

    The loader knows where it is: ``state_dict`` has the epoch, the batches handed out, and the random state that the
    epoch's order was drawn from. After ``load_state_dict`` the next pass gives what would have come, for samplers that
    draw their order when the epoch starts, as torch's do. What a dataset draws in workers is drawn anew, unless
    ``seed_batches`` is asked for.

    Args:
        base: a plain ``DataLoader``.
        backend: the connection to the other ranks.
        watch: where passes over this loader are noted.
        options: how to share out.

    Collective: all ranks must build it; where the order is random or rank 0 reads, they must read it together.

    Raises:
        NotAvailableError: ``base`` cannot be shared out correctly.
        ConfigError: the batch size cannot be split among the ranks, the sampler shares out already, or the ranks have
            different data.
    """

    def __init__(self, base: DataLoader[Any], backend: Backend, watch: EpochWatch, options: LoaderOptions) -> None:
        check_base(base, backend)
        check_alike(base, backend)
        settings: dict[str, Any] = {name: getattr(base, name) for name in _KEPT}
        streams = isinstance(base.dataset, IterableDataset)
        dispatches = options.config.dispatch_batches
        reads = backend.world.world_size > 1 and (streams if dispatches is None else streams or dispatches)
        self._source: Source
        if streams or reads:
            self._source = read_shards(base, backend, options.config, options.slice_rows)
        else:
            self._source = index_shards(base, backend, options.config)
        settings.update(self._source.arguments)
        if options.config.length_buckets is not None:
            settings.update(collate_fn=Padding(base.collate_fn, options.config.length_buckets))
        if base.pin_memory_device:
            settings.update(pin_memory_device=base.pin_memory_device)
        super().__init__(base.dataset, **settings)
        self._settings = settings
        self._options = options
        self._watch = watch
        self._backend = backend
        self.position = Position(self._source.generators)
        # What the user's code may read from a loader; the class guards these names against assignment.
        self.__dict__.update(batch_size=self._source.rank_batch_size, drop_last=base.drop_last)
        if self.batch_sampler is not None:
            self.__dict__.update(sampler=base.sampler)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # the base class promises its private iterator
        """Give this rank's batches, on its device."""
        position = self.position
        ledger = EpochLedger(self._watch, weakref.ref(self))
        begun: list[Any] = []
        batches: Iterator[Any] = iter(())
        advance = self._advance_of(ledger)
        try:
            read = self._begin(ledger, begun)
            batches = transferred(read, self._backend, self._options.device, non_blocking=self._pinned)
            for batch in batches:
                position.batches += 1
                advance()
                ledger.batch = batch
                yield batch
            position.end()
        except Exception as error:
            crash = worker_crash(error, begun[0] if begun else None, self._backend.world.rank)
            if crash is None:
                raise
            raise crash from None
        finally:
            if isinstance(batches, Generator):
                batches.close()
            ledger.close()

    def _begin(self, ledger: EpochLedger, begun: list[Any]) -> Iterator[Any]:
        def begin() -> Iterator[Any]:
            iterator, read = self._read()
            begun.append(iterator)
            return read

        with self.position.begin(workers_stay=bool(self.num_workers and self.persistent_workers)):
            self._pass_epoch_on()
            self._source.synchronise(self._options.rng_types)
            lookahead, drawing = self._options.lookahead, self.position.drawing
            seed = self.position.seed if self._options.config.seed_batches and self.num_workers else None
            return self._source.start(begin, Expected(ledger, self._to_leave_out(), lookahead, drawing, seed))

    def _read(self) -> tuple[Any, Iterator[Any]]:
        """Begin to read; give torch's iterator, which has the workers, and what it gives."""
        iterator = super().__iter__()
        return iterator, iterator

    def _to_leave_out(self) -> int:
        return self.position.batches

    def _advance_of(self, ledger: EpochLedger) -> Callable[[], None]:
        return ledger.advance

    @property
    def _pinned(self) -> bool:
        return bool(self.pin_memory) or self._options.config.non_blocking

    def __len__(self) -> int:
        """Give the number of batches that this rank gets in a whole epoch.

        Raises:
            NoLengthError: the dataset or its sampler has no length.
        """
        try:
            return self._source.length(super().__len__)
        except TypeError:
            what = f"rank {self._backend.world.rank}: a loader of {type(self.dataset).__name__} has no length"
            raise NoLengthError(
                what, "give the dataset or the sampler __len__, or count the batches as they come"
            ) from None

    @property
    def total_batch_size(self) -> int | None:
        """Samples of one step of all ranks, None where batches have no fixed size."""
        size = self._source.rank_batch_size
        return None if size is None else size * self._backend.world.world_size

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of an epoch; without this, epochs are counted.

        Args:
            epoch: 0-based.
        """
        self.position.leave()
        self.position.epoch = epoch
        self._pass_epoch_on()

    def _pass_epoch_on(self) -> None:
        for source in (*self._source.samplers, self.dataset):
            if hasattr(source, "set_epoch"):
                source.set_epoch(self.position.epoch)

    def skipping(self, batches: int) -> ShardedLoader:
        """Give the same loader, whose next pass leaves out the first batches; later ones are whole.

        Both share their position: the epoch that is read through one is read.

        Args:
            batches: of this rank, 0 or more.
        """
        same = copy.copy(self)
        same.__dict__["_iterator"] = None  # workers that stay alive belong to one of them
        same.position.skip = batches
        return same

    def state_dict(self) -> dict[str, Any]:
        """Give where the loader is on this rank, and the seeds of its samplers, as plain data and tensors."""
        return {**self.position.state_dict(), "seeds": [sampler.seed for sampler in self._seeded]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a loader was.

        Args:
            state: this rank's, of ``state_dict``.

        Raises:
            ConfigError: it is of a loader with other generators or samplers.
        """
        seeds = state["seeds"]
        if len(seeds) != len(self._seeded):
            what = f"the position is of a loader with {len(seeds)} seeded samplers, this one has {len(self._seeded)}"
            raise ConfigError(what, "leave use_seedable_sampler as it was when the position was saved")
        self.position.load_state_dict(state)
        for sampler, seed in zip(self._seeded, seeds, strict=True):
            sampler.seed = seed

    @property
    def epoch(self) -> int:
        """0-based number of the epoch that is read, or that the next pass reads or goes on with.

        Example:
            >>> from notebook_accel import Accelerator
            >>> loader = Accelerator(cpu=True).prepare(DataLoader([1, 2]))
            >>> [loader.epoch for _ in loader], loader.epoch
            ([0, 0], 1)
        """
        return self.position.epoch

    @property
    def _seeded(self) -> list[SeedableRandomSampler]:
        return [sampler for sampler in self._source.samplers if isinstance(sampler, SeedableRandomSampler)]

    def with_even_batches(self, even: bool) -> bool:
        """Choose whether ranks are filled up to the same number of batches, and give what it was before.

        Args:
            even: fill up.
        """
        before, self._source.plan = self._source.plan.even, replace(self._source.plan, even=even)
        return before
