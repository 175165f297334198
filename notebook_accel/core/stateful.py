"""Loaders of torchdata behind prepared ones: data that knows its own place is not read again after a resume."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, Sampler

from notebook_accel.backends.base import Backend
from notebook_accel.core.epoch import EpochLedger, EpochWatch
from notebook_accel.core.loader import LoaderOptions, ShardedLoader
from notebook_accel.core.sharding import ShardedBatchSampler
from notebook_accel.errors import CheckpointError, NotAvailableError

_PACKAGE = "torchdata.stateful_dataloader"


def made_loader(base: DataLoader[Any], backend: Backend, watch: EpochWatch, options: LoaderOptions) -> ShardedLoader:
    """Give a rank's share of ``base``, read through torchdata where ``base`` is of it or the user asked for that.

    Collective: all ranks must call this.

    Args:
        base: a plain ``DataLoader``, or torchdata's.
        backend: the connection to the other ranks.
        watch: where passes over the loader are noted.
        options: how to share out.

    Raises:
        NotAvailableError: ``base`` cannot be shared out correctly, or torchdata is asked for and not installed.
        ConfigError: the batch size cannot be split among the ranks, the sampler shares out already, or the ranks have
            different data.
    """
    stateful = options.config.use_stateful_dataloader or type(base).__module__.startswith(_PACKAGE)
    return (StatefulLoader if stateful else ShardedLoader)(base, backend, watch, options)


class ReadStates:
    """The states of what has been read, as far as it was not handed out yet, and that of what was.

    Args:
        reads_per_batch: how many batches are read for one that is handed out.

    Attributes:
        current: as of the batch that was handed out last; None where nothing was read here.
        to_resume: how many batches had been handed out, and the state as of the last of them.
    """

    def __init__(self, reads_per_batch: int) -> None:
        self.current: Any = None
        self.to_resume: tuple[int, Any] | None = None
        self._reads_per_batch = reads_per_batch
        self._ahead: deque[Any] = deque()

    def begin(self, batches: int) -> Any:
        """Begin a pass; give the state that it goes on from, None where it is read from its start.

        Args:
            batches: how many are left out.
        """
        self._ahead.clear()
        state, self.to_resume = self.to_resume, None
        self.current = None
        if state is not None and state[0] == batches:
            self.current = state[1]
        return self.current

    def load(self, batches: int, state: Any) -> None:
        """Take a state over.

        Args:
            batches: how many had been handed out.
            state: as of the last of them; None where it is not known.
        """
        self.current = state
        self.to_resume = None if state is None else (batches, state)

    def follow(self, reads: Any, left_out: int) -> Iterator[Any]:
        """Give what torchdata's iterator gives, and keep its state after each batch.

        Args:
            reads: the iterator.
            left_out: how many batches that are read will not be handed out, counted as those that are.
        """
        for number, batch in enumerate(reads):
            if number >= left_out * self._reads_per_batch:
                # A dataset may give the very object that it counts on in.
                self._ahead.append(copy.deepcopy(reads.state_dict()))
            yield batch

    def advance(self) -> None:
        """Note that a batch is handed out."""
        for _ in range(min(self._reads_per_batch, len(self._ahead))):
            self.current = self._ahead.popleft()


class StatefulLoader(ShardedLoader):
    """A rank's share of ``base``, read by torchdata's ``StatefulDataLoader``.

    A dataset, or its iterator, that has ``state_dict`` and ``load_state_dict`` goes on where it was after a resume,
    also in workers; other streams are read again up to there. Where rank 0 reads for all, the state is rank 0's.
    After a resume a stream's last, incomplete step is filled up from the first step that follows the resume.

    Args:
        base: a plain ``DataLoader``, or torchdata's.
        backend: the connection to the other ranks.
        watch: where passes over this loader are noted.
        options: how to share out.

    Collective: all ranks must build it.

    Raises:
        NotAvailableError: torchdata is not installed, or as ``ShardedLoader`` does.
        ConfigError: as ``ShardedLoader`` does.

    Source: https://meta-pytorch.org/data/main/torchdata.stateful_dataloader.html
    """

    def __init__(self, base: DataLoader[Any], backend: Backend, watch: EpochWatch, options: LoaderOptions) -> None:
        if importlib.util.find_spec("torchdata") is None:
            what = f"rank {backend.world.rank}: use_stateful_dataloader needs torchdata, which is not installed"
            hint = "pip install torchdata, or leave it out: prepared loaders know their position without it"
            raise NotAvailableError(what, hint)
        super().__init__(base, backend, watch, options)
        self._states = ReadStates(self._source.reads_per_batch)
        self._every = getattr(base, "snapshot_every_n_steps", 1)
        self._reader = self._made_reader()

    def _made_reader(self) -> Any:
        settings = dict(self._settings)
        shards = self._source.shards
        if shards is not None:
            name = next(name for name in ("batch_sampler", "sampler") if name in settings)
            settings[name] = _Resumable(settings[name], shards)
        loader = importlib.import_module(_PACKAGE).StatefulDataLoader
        return loader(self.dataset, snapshot_every_n_steps=self._every, **settings)

    def _read(self) -> tuple[Any, Iterator[Any]]:
        left_out = self.position.batches
        state = self._states.begin(left_out)
        if state is not None:
            self._reader.load_state_dict(copy.deepcopy(state))
        try:
            iterator = iter(self._reader)
        except (AssertionError, KeyError, ValueError) as error:
            if state is None:
                raise
            what = f"rank {self._backend.world.rank}: the loader's state does not fit: {type(error).__name__}: {error}"
            raise CheckpointError(what, "build dataset and loader as when it was saved, num_workers too") from error
        if not self.persistent_workers:
            self._reader.load_state_dict({})  # lets go of the iterator: its workers end with the pass
        rereads = self._source.shards is None and state is None
        return iterator, self._states.follow(iterator, left_out if rereads else 0)

    def _to_leave_out(self) -> int:
        left_out = super()._to_leave_out()
        to_resume = self._states.to_resume
        # A stream that goes on by itself gives nothing of what was handed out before.
        goes_on = self._source.shards is None and to_resume is not None and to_resume[0] == left_out
        return 0 if goes_on else left_out

    def _advance_of(self, ledger: EpochLedger) -> Callable[[], None]:
        def advance() -> None:
            ledger.advance()
            self._states.advance()

        return advance

    def skipping(self, batches: int) -> ShardedLoader:
        """Give the same loader, whose next pass leaves out the first batches; later ones are whole.

        Args:
            batches: of this rank, 0 or more.
        """
        same = super().skipping(batches)
        assert isinstance(same, StatefulLoader)
        same._reader = same._made_reader()  # noqa: SLF001 - its own class: workers that stay belong to one of them
        return same

    def state_dict(self) -> dict[str, Any]:
        """Give where the loader is on this rank, with the state of what reads it within an epoch."""
        return {**super().state_dict(), "reads": self._states.current if self.position.batches else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a loader was.

        Args:
            state: this rank's, of ``state_dict``; one that was saved without torchdata is read again up to there.

        Raises:
            ConfigError: it is of a loader with other generators or samplers.
        """
        super().load_state_dict(state)
        self._states.load(self.position.batches, state.get("reads"))


class _Resumable(Sampler[Any]):
    """A rank's share of a sampler, whose passes torchdata can ask for their place and put there."""

    def __init__(self, numbers: Any, shards: ShardedBatchSampler) -> None:
        self._numbers = numbers
        self._shards = shards

    def __iter__(self) -> Iterator[Any]:
        return _ResumablePass(self._numbers, self._shards)

    def __len__(self) -> int:
        return len(self._numbers)


class _ResumablePass(Iterator[Any]):
    def __init__(self, numbers: Any, shards: ShardedBatchSampler) -> None:
        self._pass = iter(numbers)
        assert shards.walk is not None
        self._walk = shards.walk
        self._given = self._walk.left_out

    def __next__(self) -> Any:
        numbers = next(self._pass)
        self._given += 1
        return numbers

    def state_dict(self) -> dict[str, int]:
        return {"given": self._given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self._given = self._walk.left_out = state["given"]
