"""Loaders that are read by torchdata's: streams that know their place are not read again after a resume."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from notebook_accel import Accelerator, DataLoaderConfiguration, skip_first_batches
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.stateful import StatefulLoader
from notebook_accel.errors import CheckpointError, NotAvailableError
from tests.ranks import RunOnRanks

torchdata = pytest.importorskip("torchdata.stateful_dataloader")
pytestmark = [
    pytest.mark.usefixtures("handler_of_dead_workers"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # what torchdata calls
]


class Counting(IterableDataset[int]):
    """A stream that knows its place; its workers take turns."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.place = {"next": 0}
        self.reads = 0

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        while self.place["next"] < self.end:
            mine = self.place["next"]
            self.place["next"] += 1
            self.reads += 1
            if mine % workers == number:
                yield mine
        self.place["next"] = 0

    def state_dict(self) -> dict[str, int]:
        return self.place  # the very object that it counts on in

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = dict(state)


class Forgetful(IterableDataset[int]):
    """A stream that does not."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(17))


class Noisy(torch.utils.data.Dataset[tuple[int, int]]):
    """Data picked by number, with a state of its own."""

    def __init__(self) -> None:
        self.drawn = 0

    def __len__(self) -> int:
        return 17

    def __getitem__(self, index: int) -> tuple[int, int]:
        self.drawn += 1
        return index, self.drawn

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.drawn = state["drawn"]


def prepared(base: DataLoader[Any], **config: Any) -> StatefulLoader:
    loader = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**config)).prepare(base)
    assert isinstance(loader, StatefulLoader)
    return loader


def listed(batches: Iterator[Any] | DataLoader[Any]) -> list[Any]:
    return [torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.tolist, batch) for batch in batches]


def begun(loader: DataLoader[Any], batches: int) -> tuple[list[Any], dict[str, Any]]:
    """Read some batches; give them, and the state as of the last of them, kept as a checkpoint keeps it."""
    reading = iter(loader)
    read = listed(itertools.islice(reading, batches))
    return read, copy.deepcopy(loader.state_dict())


@pytest.mark.parametrize("stop_at", [1, 4, 8])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("workers", [0, 2, -2])  # -2: two that stay
def test_a_stream_goes_on_where_it_was(workers: int, every: int, stop_at: int) -> None:
    def loader(data: Counting) -> StatefulLoader:
        settings: dict[str, Any] = {"num_workers": abs(workers), "persistent_workers": workers < 0}
        return prepared(torchdata.StatefulDataLoader(data, batch_size=2, snapshot_every_n_steps=every, **settings))

    never_stopped = loader(Counting(17))
    first, second = listed(never_stopped), listed(never_stopped)
    read, state = begun(loader(Counting(17)), stop_at)
    data = Counting(17)
    resumed = loader(data)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert read + listed(resumed) == first
    assert listed(resumed) == second
    assert data.reads == (0 if workers else 17 - 2 * stop_at + 17)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_does_not_know_its_place_is_read_again(workers: int) -> None:
    def loader() -> StatefulLoader:
        return prepared(DataLoader(Forgetful(), batch_size=2, num_workers=workers), use_stateful_dataloader=True)

    first = listed(loader())
    read, state = begun(loader(), 3)
    resumed = loader()
    resumed.load_state_dict(state)
    assert read + listed(resumed) == first


@pytest.mark.parametrize("batch_size", [3, None])
@pytest.mark.parametrize("seedable", [True, False])
@pytest.mark.parametrize("of_torchdata", [True, False])
def test_data_picked_by_number_keeps_its_state_and_order(
    of_torchdata: bool, seedable: bool, batch_size: int | None
) -> None:
    def loader(seed: int) -> StatefulLoader:
        torch.manual_seed(seed)
        kind = torchdata.StatefulDataLoader if of_torchdata else DataLoader
        settings = {"use_seedable_sampler": seedable, "use_stateful_dataloader": not of_torchdata}
        return prepared(kind(Noisy(), batch_size=batch_size, shuffle=True), **settings)

    first = listed(loader(1))
    read, state = begun(loader(1), 2)
    resumed = loader(2)
    resumed.load_state_dict(state)
    assert read + listed(resumed) == first


def test_the_seedable_sampler_takes_the_place_of_torchdatas() -> None:
    orders = []
    for base in (DataLoader(range(9), shuffle=True), torchdata.StatefulDataLoader(range(9), shuffle=True)):  # type: ignore[arg-type]
        config = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=5)
        orders.append(listed(Accelerator(cpu=True, dataloader_config=config).prepare(base)))
    assert orders[0] == orders[1] != sorted(orders[0])


def test_the_state_is_that_of_what_was_handed_out() -> None:
    """Not of what was read: the loop sees a batch after the next one was read."""
    data = Counting(17)
    loader = prepared(torchdata.StatefulDataLoader(data, batch_size=2))
    _, state = begun(loader, 3)
    assert data.place["next"] == 8
    assert state["reads"]["fetcher_state"]["dataset_iter_state"] is None
    assert state["reads"]["dataset_state"] == {"next": 6}


def test_between_epochs_there_is_nothing_to_go_on_from() -> None:
    loader = prepared(torchdata.StatefulDataLoader(Counting(4), batch_size=2))
    assert loader.state_dict()["reads"] is None
    assert len(listed(loader)) == 2
    assert (loader.state_dict()["reads"], loader.epoch) == (None, 1)


def test_a_state_without_torchdata_is_gone_on_from_with_it_and_back() -> None:
    plain = Accelerator(cpu=True).prepare(DataLoader(Counting(9), batch_size=2))
    assert type(plain) is ShardedLoader
    read, state = begun(plain, 2)
    with_it = prepared(torchdata.StatefulDataLoader(Counting(9), batch_size=2))
    with_it.load_state_dict(state)
    assert read + listed(with_it) == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
    read, state = begun(with_it, 2)
    without = Accelerator(cpu=True).prepare(DataLoader(Counting(9), batch_size=2))
    without.load_state_dict(state)
    assert listed(without) == [[4, 5], [6, 7], [8]]


def test_first_batches_are_skipped_and_counted() -> None:
    for data, again in ((Counting(9), Counting(9)), (torch.arange(9), torch.arange(9))):
        skipped = skip_first_batches(prepared(torchdata.StatefulDataLoader(data, batch_size=2)), 2)
        read, state = begun(skipped, 1)
        assert read == [[4, 5]]
        resumed = prepared(torchdata.StatefulDataLoader(again, batch_size=2))
        resumed.load_state_dict(state)
        assert listed(resumed) == [[6, 7], [8]]


def test_other_batches_than_those_of_the_state_may_be_skipped() -> None:
    read, state = begun(prepared(torchdata.StatefulDataLoader(Counting(9), batch_size=2)), 1)
    loader = prepared(torchdata.StatefulDataLoader(Counting(9), batch_size=2))
    loader.load_state_dict(state)
    assert read == [[0, 1]]
    assert listed(skip_first_batches(loader, 3)) == [[6, 7], [8]]


def test_a_state_that_does_not_fit_is_refused() -> None:
    _, state = begun(prepared(torchdata.StatefulDataLoader(Counting(9), batch_size=2)), 1)
    loader = prepared(torchdata.StatefulDataLoader(Counting(9), batch_size=2, num_workers=1))
    loader.load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"rank 0: the loader's state does not fit.*\n.*num_workers"):
        next(iter(loader))


def test_rows_are_counted_as_without_it() -> None:
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(torchdata.StatefulDataLoader(torch.arange(5), batch_size=2))
    assert [accelerator.gather_for_metrics(batch).tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    assert (len(loader), loader.total_batch_size) == (3, 2)


def test_a_checkpoint_holds_the_place_of_a_stream(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    for _ in itertools.islice(accelerator.prepare(torchdata.StatefulDataLoader(Counting(9), batch_size=2)), 2):
        pass
    accelerator.save_state(tmp_path / "here")
    other, data = Accelerator(cpu=True), Counting(9)
    loader = other.prepare(torchdata.StatefulDataLoader(data, batch_size=2))
    other.load_state(tmp_path / "here")
    assert listed(loader) == [[4, 5], [6, 7], [8]]
    assert data.reads == 5


def test_without_torchdata_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NotAvailableError, match=r"torchdata, which is not installed\n.*pip install torchdata"):
        prepared(DataLoader(range(3)), use_stateful_dataloader=True)  # type: ignore[arg-type]


def streams_go_on_on_every_rank() -> list[Any]:
    """Read some, stop, go on in other loaders; by what is read where."""
    given = []
    warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
    for dispatch, split, even in itertools.product((None, False), (False, True), (False, True)):
        config = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split, even_batches=even)
        accelerator = Accelerator(cpu=True, dataloader_config=config)
        for build in (lambda: Counting(22), Noisy):
            whole = accelerator.prepare(torchdata.StatefulDataLoader(build(), batch_size=4))
            expected = listed(whole)
            read, state = begun(accelerator.prepare(torchdata.StatefulDataLoader(build(), batch_size=4)), 2)
            data = build()
            resumed = accelerator.prepare(torchdata.StatefulDataLoader(data, batch_size=4))
            resumed.load_state_dict(state)
            goes_on = listed(resumed)
            real = len(expected) - even  # what fills a stream's last step up is another batch
            assert (read + goes_on)[:real] == expected[:real], (dispatch, split, even, expected, read, goes_on)
            assert len(read + goes_on) == len(expected)
            if isinstance(data, Counting):
                given.append(data.reads)
    return given


def test_streams_on_two_ranks(run_on_ranks: RunOnRanks) -> None:
    reads = [of_rank["streams_go_on_on_every_rank"] for of_rank in run_on_ranks(streams_go_on_on_every_rank)]
    # Two rounds of 4 rows for each rank, or for both where batches are split, are not read again.
    assert reads[0] == [22 - 16, 22 - 16, 22 - 8, 22 - 8] * 2
    assert reads[1] == [0] * 4 + [22 - 16, 22 - 16, 22 - 8, 22 - 8]
