from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from notebook_accel.backends.base import Backend
from notebook_accel.backends.distributed import DistributedBackend
from notebook_accel.backends.registry import ENGINES
from notebook_accel.backends.single import SingleBackend
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.loader import LoaderOptions, ShardedLoader
from notebook_accel.core.plugins import DataLoaderConfiguration
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError, NoLengthError, NotAvailableError
from notebook_accel.world import World


class Numbers(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


def pid_of_worker(items: list[int]) -> tuple[list[int], int]:
    return items, os.getpid()


def as_pairs(items: list[int]) -> dict[str, Any]:
    return {"x": torch.tensor(items), "ids": items}


pytestmark = pytest.mark.usefixtures("handler_of_dead_workers")


def sharded(
    base: DataLoader[Any], backend: Backend | None = None, device: torch.device | None = None, **config: Any
) -> ShardedLoader:
    options = LoaderOptions(config=DataLoaderConfiguration(**config), device=device)
    return ShardedLoader(base, backend or SingleBackend(World()), EpochWatch(), options)


def second_of_two() -> Backend:
    """A rank that talks to nobody: for what needs no collective, once its loader is known to be the others'."""
    backend = DistributedBackend(World(rank=1, world_size=2), ENGINES["gloo"])
    backend.gather_object = lambda obj: [obj, obj]  # type: ignore[method-assign]
    return backend


def listed(loader: DataLoader[Any]) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


# ---- one process


def test_alone_it_gives_what_the_loader_gives():
    base = DataLoader(Numbers(5), batch_size=2)
    loader = sharded(base)
    assert isinstance(loader, DataLoader)
    assert listed(loader) == listed(base) == [[0, 1], [2, 3], [4]]
    assert len(loader) == 3
    assert len(sharded(DataLoader(Numbers(5), batch_size=2, drop_last=True))) == 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_alone_it_shuffles_as_the_loader_does(num_workers: int):
    base = DataLoader(Numbers(20), batch_size=3, shuffle=True, num_workers=num_workers)
    loader = sharded(base)
    torch.manual_seed(4)
    expected = [listed(base), listed(base), torch.rand(1)]
    torch.manual_seed(4)
    assert [listed(loader), listed(loader), torch.rand(1)] == expected
    assert expected[0] != expected[1]


def test_settings_are_kept():
    base = DataLoader(
        Numbers(8),
        batch_size=2,
        num_workers=2,
        collate_fn=as_pairs,
        timeout=30,
        prefetch_factor=3,
        persistent_workers=True,
        multiprocessing_context="fork",
        generator=torch.Generator().manual_seed(1),
        shuffle=True,
    )
    loader = sharded(base)
    names = ["dataset", "num_workers", "collate_fn", "timeout", "prefetch_factor", "persistent_workers", "generator"]
    names += ["batch_size", "drop_last", "sampler", "pin_memory", "in_order", "multiprocessing_context"]
    assert {name: getattr(loader, name) for name in names} == {name: getattr(base, name) for name in names}


def test_workers_do_the_work_and_stay_where_they_shall():
    loader = sharded(
        DataLoader(Numbers(4), batch_size=2, num_workers=1, collate_fn=pid_of_worker, persistent_workers=True)
    )
    first, second = list(loader), list(loader)
    pids = {pid for epoch in (first, second) for _, pid in epoch}
    assert [items for items, _ in first] == [[0, 1], [2, 3]]
    assert len(pids) == 1
    assert os.getpid() not in pids
    del loader


def test_batches_are_brought_to_the_device():
    base = DataLoader(Numbers(2), batch_size=2, collate_fn=as_pairs)
    (moved,) = sharded(base, device=torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["ids"] == [0, 1]
    (left,) = sharded(base)
    assert left["x"].device.type == "cpu"


def test_epoch_is_passed_on():
    class Counting(Sampler[int]):
        epoch = 0

        def __iter__(self) -> Iterator[int]:
            return iter([self.epoch, self.epoch])

        def __len__(self) -> int:
            return 2

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    data = Numbers(9)
    loader = sharded(DataLoader(data, batch_size=2, sampler=Counting()))
    loader.set_epoch(7)
    assert listed(loader) == [[7, 7]]
    assert data.epoch == 7


def test_the_last_batch_is_known_while_it_is_in_hand():
    for base in (DataLoader(Numbers(5), batch_size=2), DataLoader(Stream(), batch_size=2)):
        watch = EpochWatch()
        loader = ShardedLoader(base, SingleBackend(World()), watch, LoaderOptions(lookahead=2))
        assert [watch.remaining for _ in loader] == [2, 1, 0]
        assert watch.remaining is None
        for _ in loader:
            assert watch.remaining == 2
            break
        assert watch.remaining is None, "left early"


def test_alone_a_stream_is_read_as_it_is():
    loader = sharded(DataLoader(Stream(), batch_size=2))
    assert listed(loader) == [[0, 1], [2, 3], [4]]
    assert issubclass(NoLengthError, TypeError), "list() asks for a length, and goes on without"
    with pytest.raises(NoLengthError, match=r"rank 0: a loader of Stream has no length(?s:.)*__len__"):
        len(loader)


# ---- one of two ranks, without the other


def test_a_rank_takes_its_own_batches():
    base = DataLoader(TensorDataset(torch.arange(9)), batch_size=2)
    loader = sharded(base, second_of_two())
    assert [batch[0].tolist() for batch in loader] == [[2, 3], [6, 7], [1, 2]]
    assert (len(loader), loader.batch_size) == (3, 2)
    split = sharded(base, second_of_two(), split_batches=True)
    assert [batch[0].tolist() for batch in split] == [[1], [3], [5], [7], [0]]
    assert (len(split), split.batch_size) == (5, 1)
    uneven = sharded(base, second_of_two(), even_batches=False)
    assert [batch[0].tolist() for batch in uneven] == [[2, 3], [6, 7]]
    assert len(uneven) == 2


def test_what_cannot_be_shared_out_right_is_refused():
    class Own(DataLoader[int]):
        def __iter__(self) -> Any:
            return iter([1])

    two = second_of_two()
    with pytest.raises(NotAvailableError, match="Own iterates in its own way"):
        sharded(Own(Numbers(1)))
    with pytest.raises(NotAvailableError, match="in_order=False"):
        sharded(DataLoader(Numbers(1), in_order=False), two)
    with pytest.raises(ConfigError, match="3 samples cannot be split among 2"):
        sharded(DataLoader(Numbers(9), batch_size=3), two, split_batches=True)
    for dispatches in (None, False):
        with pytest.raises(ConfigError, match="3 samples cannot be split among 2"):
            sharded(DataLoader(Stream(), batch_size=3), two, split_batches=True, dispatch_batches=dispatches)
    sampler = DistributedSampler(Numbers(4), num_replicas=2, rank=1)
    with pytest.raises(ConfigError, match="DistributedSampler shares the samples out"):
        sharded(DataLoader(Numbers(4), sampler=sampler), two)


# ---- two ranks: called by test_on_two_ranks.py


def epoch_of_all(loader: DataLoader[Any], backend: Backend) -> list[int]:
    """Every rank's samples in the order of the steps."""
    by_rank = backend.gather_object(listed(loader))
    assert len({len(batches) for batches in by_rank}) == 1
    return [sample for step in zip(*by_rank, strict=True) for batch in step for sample in batch]


def shuffled_order_is_one_order() -> None:
    backend = current().backend
    rank = backend.world.rank
    weights = torch.ones(16)
    for name, build in {
        "shuffle": lambda: DataLoader(Numbers(16), batch_size=2, shuffle=True),
        "workers": lambda: DataLoader(Numbers(16), batch_size=2, shuffle=True, num_workers=1),
        "subset": lambda: DataLoader(Numbers(16), batch_size=2, sampler=SubsetRandomSampler(range(16))),
        "own batches": lambda: DataLoader(Numbers(16), batch_sampler=BatchSampler(RandomSampler(weights), 2, True)),
        "weighted": lambda: DataLoader(
            Numbers(16), batch_size=2, sampler=WeightedRandomSampler(weights, 16, replacement=False)
        ),
    }.items():
        torch.manual_seed(100 + rank)
        loader = sharded(build(), backend)
        first, second = epoch_of_all(loader, backend), epoch_of_all(loader, backend)
        assert sorted(first) == sorted(second) == list(range(16)), name
        assert first != second, name


def order_is_that_of_one_process() -> None:
    backend = current().backend
    torch.manual_seed(5 + backend.world.rank)
    alone = DataLoader(Numbers(12), batch_size=2, shuffle=True)
    shared = epoch_of_all(sharded(DataLoader(Numbers(12), batch_size=2, shuffle=True), backend), backend)
    torch.manual_seed(5)
    assert shared == [sample for batch in listed(alone) for sample in batch]


def own_generators_stay_in_step() -> None:
    backend = current().backend
    generator = torch.Generator().manual_seed(backend.world.rank)
    loader = sharded(DataLoader(Numbers(12), batch_size=2, shuffle=True, generator=generator), backend)
    first, second = epoch_of_all(loader, backend), epoch_of_all(loader, backend)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    states = backend.gather_object(generator.get_state().tolist())
    assert states[0] == states[1]


def ranks_draw_different_numbers_after_an_epoch() -> None:
    backend = current().backend
    torch.manual_seed(backend.world.rank)
    epoch_of_all(sharded(DataLoader(Numbers(4), shuffle=True), backend), backend)
    drawn = backend.gather_object(torch.rand(1).item())
    assert drawn[0] != drawn[1]


def fixed_order_needs_no_other_rank() -> None:
    backend = current().backend
    loader = sharded(DataLoader(Numbers(8), batch_size=2), backend)
    if backend.world.is_main:  # would wait for ever for the other rank otherwise
        assert listed(loader) == [[0, 1], [4, 5]]
    backend.barrier()


def every_sample_comes_once_besides_the_padding() -> None:
    backend = current().backend
    split = sharded(DataLoader(Numbers(9), batch_size=4), backend, split_batches=True)
    assert epoch_of_all(split, backend) == [*range(9), 0, 1, 2]
    whole = sharded(DataLoader(Numbers(9), batch_size=4), backend)
    assert epoch_of_all(whole, backend) == [*range(9), *range(7)]
    drop = sharded(DataLoader(Numbers(9), batch_size=2, drop_last=True), backend)
    assert epoch_of_all(drop, backend) == list(range(8))
    uneven = sharded(DataLoader(Numbers(10), batch_size=4), backend, even_batches=False)
    assert backend.gather_object(listed(uneven)) == [[[0, 1, 2, 3], [8, 9]], [[4, 5, 6, 7]]]
    assert backend.gather_object(len(uneven)) == [2, 1]
