"""Every sample once, on any number of ranks; epochs that go on where they were."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.dealing import hands
from notebook_accel.core.plugins import DataLoaderConfiguration
from notebook_accel.core.runtime import Runtime, current
from notebook_accel.core.sharding import Sharding, rounds
from notebook_accel.core.skipping import skip_first_batches
from notebook_accel.errors import ConfigError
from tests.ranks import RunOnRanks

pytestmark = pytest.mark.usefixtures("handler_of_dead_workers")


class Stream(IterableDataset[Tensor]):
    """Rows one after the other; with ``lengths`` each is a sequence of another length."""

    def __init__(self, count: int, *, lengths: bool = False, sized: bool = False) -> None:
        self.count, self.lengths = count, lengths
        if sized:
            self.__class__ = SizedStream

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.count):
            yield torch.full((1 + number % 3,), number) if self.lengths else torch.tensor(number)


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.count


class Noted(Dataset[Tensor]):
    """Notes what is read; adds what is drawn."""

    def __init__(self, count: int, *, noise: bool = False) -> None:
        self.count, self.noise = count, noise
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return torch.tensor(float(index)) + (torch.rand(()) / 2 if self.noise else 0)


KILLED = """
import os, signal
from torch.utils.data import DataLoader, Dataset
from notebook_accel import Accelerator, WorkerDied

class Fragile(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

try:
    list(Accelerator(cpu=True).prepare(DataLoader(Fragile(), batch_size=1, num_workers=2)))
except WorkerDied as error:
    print(error, flush=True)
os._exit(0)
"""


def flat(batches: Any) -> list[int]:
    return [int(sample) for batch in batches for sample in batch]


# ---- pure: every rank's share, put together


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 50), st.integers(1, 7), st.integers(1, 4), st.tuples(*[st.booleans()] * 5))
def test_shares_make_the_whole(samples: int, size: int, ranks: int, how: tuple[bool, bool, bool, bool, bool]):
    drop_last, split, even, picked, full = how
    batch_size = size * ranks if split else size
    batches = list(BatchSampler(SequentialSampler(range(samples)), batch_size, drop_last))
    plan = Sharding(
        rank=0,
        world_size=ranks,
        batch_size=batch_size,
        drop_last=drop_last,
        split=split and ranks > 1,
        even=even and (ranks > 1 or full),
        full=full,
    )
    if picked:
        dealt = list(rounds(batches, plan))
    else:
        dealt = [(hand.batches, hand.round) for hand in hands(map(torch.tensor, batches), plan)]
    real = [
        int(sample)
        for given_, its_round in dealt
        for rank, batch in enumerate(given_)
        for sample in (list(batch) if its_round.sizes[rank] else [])[: its_round.real[rank]]
    ]
    kept = [sample for batch in batches for sample in batch]
    if drop_last and ranks > 1 and not split:
        kept = kept[: len(kept) // (size * ranks) * size * ranks]
    assert real == kept
    assert all(len(its_round.sizes) == ranks for _, its_round in dealt)
    if even and ranks > 1 and picked:
        assert all(len(set(its_round.sizes)) == 1 for _, its_round in dealt)
    if even and full:
        assert {rows for _, its_round in dealt for rows in its_round.sizes} <= {size}


# ---- one process


def test_samples_that_are_left_out_are_not_read(runtime: Runtime):
    data = Noted(12)
    loader = Accelerator().prepare(DataLoader(data, batch_size=2))
    assert flat(loader.skipping(4)) == [8, 9, 10, 11]
    assert data.read == [8, 9, 10, 11]
    skipped = skip_first_batches(loader, 5)
    assert (flat(skipped), flat(skipped), len(skipped)) == ([10, 11], list(range(12)), 6)
    assert flat(loader) == list(range(12)), "the loader itself is whole"
    assert flat(skip_first_batches(DataLoader(Stream(5), batch_size=2), 1)) == [2, 3, 4]
    with pytest.raises(ConfigError, match="num_batches"):
        skip_first_batches(loader, -1)


def test_a_skipped_loader_keeps_its_settings(runtime: Runtime):
    base = DataLoader(Noted(9), batch_size=2, drop_last=True, collate_fn=list, num_workers=0, pin_memory=False)
    skipped = skip_first_batches(Accelerator().prepare(base), 1)
    assert (skipped.drop_last, skipped.collate_fn, skipped.batch_size, len(skipped)) == (True, list, 2, 4)
    assert skipped.total_batch_size == 2


@pytest.mark.parametrize("seedable", [False, True])
def test_epochs_are_counted(runtime: Runtime, seedable: bool):
    config = DataLoaderConfiguration(use_seedable_sampler=seedable, data_seed=7 if seedable else None)
    first, second = (Accelerator(dataloader_config=config).prepare(DataLoader(range(20), shuffle=True)) for _ in "ab")
    orders = [flat(first) for _ in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    torch.rand(3)
    again = [flat(second) for _ in range(3)]
    assert (again == orders) == seedable
    if seedable:
        second.set_epoch(1)
        assert flat(second) == orders[1]
        next(iter(second))  # left early: the next pass is another epoch
        assert second.position.epoch == 2
        assert flat(second) not in orders


def test_single_samples(runtime: Runtime):
    loader = Accelerator().prepare(DataLoader([torch.ones(2), torch.zeros(3)], batch_size=None))
    assert [len(sample) for sample in loader] == [2, 3]
    assert (len(loader), loader.batch_size) == (2, None)


def test_a_killed_worker_is_named(tmp_path: Path):
    script = tmp_path / "script.py"  # torch takes its time to clean up after a worker that is gone
    script.write_text(KILLED)
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        running = subprocess.Popen([sys.executable, str(script)], stdout=file, stderr=file, start_new_session=True)
    try:
        running.wait(timeout=60)
    finally:
        # The other worker may wait for ever for a lock that the killed one held.
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert "rank 0: worker 1 of 2 of its DataLoader was killed by SIGKILL" in said.read_text()


def test_metrics_are_means_over_rows(runtime: Runtime):
    accelerator = Accelerator()
    metrics = accelerator.metrics()
    loader = accelerator.prepare(DataLoader(torch.arange(7.0), batch_size=3))
    for batch in loader:
        metrics.update(mean=batch, square=batch[:, None] ** 2)
    assert metrics.compute() == {"mean": 3.0, "square": 13.0}
    assert metrics.compute() == {}
    with pytest.raises(ConfigError, match="value for each row"):
        metrics.update(loss=torch.tensor(1.0))
    with pytest.raises(ConfigError, match="value for each row"):
        metrics.update(a=torch.ones(2), b=torch.ones(3))


def loaders(count: int, *, workers: int, persistent: bool, shuffle: bool, noise: bool) -> DataLoader[Any]:
    return DataLoader(
        Noted(count, noise=noise),
        batch_size=2,
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=persistent,
        multiprocessing_context="fork" if workers else None,
    )


def resumed_as_if_never_stopped(workers: int, persistent: bool, shuffle: bool, seedable: bool, at: int) -> None:
    """Compare the rest of an epoch and the next one with what a run that was never stopped gives."""
    kind = {"workers": workers, "persistent": persistent, "shuffle": shuffle, "noise": workers == 0}
    config = DataLoaderConfiguration(use_seedable_sampler=seedable, data_seed=3 if seedable else None)
    torch.manual_seed(11)
    loader = Accelerator(dataloader_config=config).prepare(loaders(17, **kind))
    list(loader)
    running = iter(loader)
    assert len([next(running) for _ in range(at)]) == at
    state, generator = loader.state_dict(), torch.get_rng_state()
    running.close()  # type: ignore[attr-defined]  # a generator
    del loader
    # What would have come is asked of a twin that is not stopped.
    torch.manual_seed(11)
    twin = Accelerator(dataloader_config=config).prepare(loaders(17, **kind))
    list(twin)
    expected = [batch.tolist() for batch in twin][at:] + [batch.tolist() for batch in twin]
    del twin
    torch.manual_seed(99)
    fresh = Accelerator(dataloader_config=config).prepare(loaders(17, **kind))
    fresh.load_state_dict(state)
    torch.set_rng_state(generator)
    assert [batch.tolist() for batch in fresh] + [batch.tolist() for batch in fresh] == expected


@pytest.mark.parametrize("seedable", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("at", [0, 4])
def test_a_resumed_epoch_is_the_rest(
    runtime: Runtime, workers: int, persistent: bool, shuffle: bool, seedable: bool, at: int
):
    resumed_as_if_never_stopped(workers, persistent, shuffle, seedable, at)


def test_a_position_of_another_loader_is_refused(runtime: Runtime):
    loader = Accelerator().prepare(DataLoader(range(4), shuffle=True, generator=torch.Generator()))
    other = Accelerator().prepare(DataLoader(range(4), shuffle=True))
    next(iter(loader))
    with pytest.raises(ConfigError, match="1 generators, this one has 0"):
        other.load_state_dict(loader.state_dict())


# ---- any number of ranks


@dataclass(frozen=True)
class Evaluation:
    """How a dataset is evaluated."""

    samples: int
    size: int
    drop_last: bool
    split: bool
    even: bool
    dispatch: bool
    shuffle: bool

    def base(self, ranks: int) -> DataLoader[Any]:
        return DataLoader(
            TensorDataset(torch.arange(self.samples)) if self.samples else [],
            batch_size=self.size * ranks if self.split else self.size,
            shuffle=self.shuffle and self.samples > 0,
            drop_last=self.drop_last,
        )

    def expected(self, ranks: int) -> list[int]:
        """Give the samples in the order of one process, without what is in no whole step where such are dropped."""
        torch.manual_seed(0)
        order = [int(row) for (rows,) in self.base(ranks) for row in rows]
        step = self.size * ranks
        return order[: len(order) // step * step] if self.drop_last else order


def evaluation_sees_every_sample_once(how: Evaluation) -> None:
    world = current().world
    config = DataLoaderConfiguration(
        split_batches=how.split, even_batches=how.even, dispatch_batches=how.dispatch or None
    )
    expected = how.expected(world.world_size)
    accelerator = Accelerator(dataloader_config=config)
    loader = accelerator.prepare(how.base(world.world_size))
    torch.manual_seed(world.rank)
    mine = [batch[0] for batch in loader]
    assert len(mine) == len(loader), how
    every = accelerator._kit.backend.gather_object(mine)
    counts = {len(batches) for batches in every}
    assert len(counts) == 1 or not how.even, how
    if len(counts) > 1:
        steps = itertools.zip_longest(*every, fillvalue=())
        assert [int(row) for step in steps for rows in step for row in rows] == expected, how
        return
    torch.manual_seed(world.rank)
    seen, metrics = [], accelerator.metrics()
    for (rows,) in accelerator.prepare(how.base(world.world_size)):
        seen += accelerator.gather_for_metrics(rows).tolist()
        metrics.update(mean=rows.double())
    assert seen == expected, how
    assert metrics.compute() == pytest.approx({"mean": sum(expected) / len(expected)} if expected else {}), how


def evaluations_see_every_sample_once() -> None:
    turns = random.Random(5)
    for _ in range(120):
        samples, size = turns.randrange(0, 51), turns.randrange(1, 6)
        evaluation_sees_every_sample_once(Evaluation(samples, size, *[turns.random() < 0.5 for _ in range(5)]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(Evaluation, st.integers(0, 50), st.integers(1, 7), *[st.booleans()] * 5))
def test_one_process_sees_every_sample_once(runtime: Runtime, how: Evaluation):
    evaluation_sees_every_sample_once(how)


def single_samples_are_counted() -> None:
    """Where samples come one by one, each is a row: also of a stream, and objects."""
    for count, base in itertools.product((0, 1, 7), (torch.arange, Stream)):
        for dispatch in (None, False, True):
            accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
            loader = accelerator.prepare(DataLoader(base(count), batch_size=None))
            seen, named = [], []
            for sample in loader:
                seen += accelerator.gather_for_metrics(sample[None]).tolist()
                named += accelerator.gather_for_metrics([str(int(sample))])
            assert seen == list(range(count)), (base, dispatch)
            assert named == list(map(str, seen))


def streams_are_shared_out() -> None:
    world = current().world
    for dispatch, count, sized in itertools.product((None, False), (0, 1, 7, 12), (False, True)):
        config = DataLoaderConfiguration(dispatch_batches=dispatch)
        accelerator = Accelerator(dataloader_config=config)
        loader = accelerator.prepare(DataLoader(Stream(count, sized=sized), batch_size=2))
        for _ in range(2):
            seen = [int(row) for rows in loader for row in accelerator.gather_for_metrics(rows)]
            assert seen == list(range(count)), (dispatch, count)
        steps = accelerator._kit.backend.gather_object(len(list(loader)))
        assert len(set(steps)) == 1
        if sized:
            assert len(loader) == steps[0]
    accelerator = Accelerator()
    various = accelerator.prepare(DataLoader(Stream(9, lengths=True), batch_size=1))
    lengths = [batch.shape[1] for batch in various]
    assert lengths[:2] == [1 + world.rank % 3, 1 + (world.world_size + world.rank) % 3]
    left_out = accelerator.skip_first_batches(accelerator.prepare(DataLoader(Stream(12), batch_size=2)), 1)
    rest = [int(row) for rows in left_out for row in accelerator.gather_for_metrics(rows)]
    assert rest == list(range(2 * world.world_size, 12))


def a_stream_that_fails_fails_everywhere() -> None:
    class Broken(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            yield from range(4)
            raise KeyError("row 4")

    rank = current().world.rank
    loader = Accelerator().prepare(DataLoader(Broken(), batch_size=1))
    with pytest.raises(ConfigError if rank else KeyError, match="row 4"):
        list(loader)


def ranks_with_different_data_are_named() -> None:
    rank = current().world.rank
    with pytest.raises(ConfigError, match=r"prepare different loaders: samples \d+ and \d+"):
        Accelerator().prepare(DataLoader(range(8 + rank)))
    torch.manual_seed(rank)  # as ranks are seeded that nobody seeds
    train, _ = random_split(range(20), [10, 10])
    drawn = SubsetRandomSampler(torch.randperm(20)[:10].tolist())
    for loader in (DataLoader(train), DataLoader(range(20), batch_size=2, sampler=drawn)):
        with pytest.raises(ConfigError, match=r"different loaders: choice of samples(?s:.)*same seed"):
            Accelerator().prepare(loader)
    train, _ = random_split(range(20), [10, 10], torch.Generator().manual_seed(1))
    assert len(Accelerator().prepare(DataLoader(train))) == -(-10 // current().world.world_size)


def uneven_ranks_train_without_waiting() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    inner = nn.Linear(1, 1, bias=False)
    model, optimizer, loader = accelerator.prepare(
        inner, SGD(inner.parameters(), lr=0.1), DataLoader(TensorDataset(torch.ones(5, 1)), batch_size=1)
    )
    begun = inner.weight.item()
    steps = 0
    with accelerator.join_uneven_inputs([model], even_batches=False):
        for (x,) in loader:
            accelerator.backward(model(x).sum())
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
    assert steps == (3 if rank == 0 else 2)
    assert len(list(loader)) == 3, "as before"
    weights = accelerator.gather(inner.weight)
    assert torch.equal(weights[0], weights[1]), "all have what the last one ended with"
    assert weights[0].item() == pytest.approx(begun - 0.1 * 2.5)


def every_rank_resumes_where_it_was() -> None:
    for workers, shuffle, seedable in ((0, True, False), (2, True, False), (0, True, True), (0, False, False)):
        resumed_as_if_never_stopped(workers, persistent=False, shuffle=shuffle, seedable=seedable, at=2)


ON_TWO = (uneven_ranks_train_without_waiting, every_rank_resumes_where_it_was)
ON_ANY = (
    evaluations_see_every_sample_once,
    single_samples_are_counted,
    streams_are_shared_out,
    a_stream_that_fails_fails_everywhere,
    ranks_with_different_data_are_named,
)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_on_several_ranks(ranks: int, run_on_ranks: RunOnRanks):
    bodies = ON_ANY + ON_TWO if ranks == 2 else ON_ANY
    for found in run_on_ranks(*bodies, ranks=ranks, timeout_seconds=200):
        assert set(found) == {body.__name__ for body in bodies}
