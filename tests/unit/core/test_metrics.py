from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core import meter, metrics
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.exchange import Exchange
from notebook_accel.core.loader import LoaderOptions, ShardedLoader
from notebook_accel.core.plugins import DataLoaderConfiguration
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError
from notebook_accel.world import World

ALONE = Exchange(SingleBackend(World()))

# ---- one process


def test_objects_come_in_a_list():
    with pytest.raises(ConfigError, match="objects in a dict"):
        metrics.gather_for_metrics({"a": "text"}, ALONE, EpochWatch())


def test_alone_everything_is_kept():
    assert metrics.gather_for_metrics(torch.arange(3), ALONE, EpochWatch()).tolist() == [0, 1, 2]
    assert metrics.gather_for_metrics(["a"], ALONE, EpochWatch()) == ["a"]


# ---- two ranks: called by test_on_two_ranks.py


def loader_of(samples: int, watch: EpochWatch, **options: bool) -> ShardedLoader:
    base = DataLoader(TensorDataset(torch.arange(samples)), batch_size=4)
    return ShardedLoader(base, current().backend, watch, LoaderOptions(config=DataLoaderConfiguration(**options)))


def metrics_see_every_sample_once() -> None:
    exchange = current().exchange

    def collect(data: object) -> Tensor | list[int]:
        return metrics.gather_for_metrics(data, exchange, watch)

    for split in (False, True):
        for samples in range(1, 20):
            watch = EpochWatch()
            inside: list[int] = []
            mine, names = [], []
            for (batch,) in loader_of(samples, watch, split_batches=split):
                inside += collect({"x": batch})["x"].tolist()
                names += collect([f"sample {number}" for number in batch.tolist()])
                assert collect(torch.tensor(1.0)).shape == (2,)
                mine.append(batch)
            assert inside == list(range(samples)), (split, samples)
            assert names == [f"sample {number}" for number in range(samples)], (split, samples)
            afterwards = collect(torch.cat(mine)).tolist()
            assert sorted(afterwards) == list(range(samples)), (split, samples)
            objects = collect([{"id": number} for batch in mine for number in batch.tolist()])
            assert sorted(each["id"] for each in objects) == list(range(samples)), (split, samples)


def unrelated_rows_are_left_alone() -> None:
    exchange, watch = current().exchange, EpochWatch()
    for _ in loader_of(9, watch):
        pass
    assert len(metrics.gather_for_metrics(torch.ones(40), exchange, watch)) == 80
    for (batch,) in loader_of(5, watch):
        kept = metrics.gather_for_metrics(batch, exchange, watch)
        assert kept.tolist() == list(range(5))
        break
    assert len(metrics.gather_for_metrics(torch.ones(40), exchange, watch)) == 80


def evaluation_inside_a_training_loop_keeps_them_apart() -> None:
    exchange, watch = current().exchange, EpochWatch()
    evaluation = loader_of(9, watch)
    for (batch,) in loader_of(16, watch):
        seen = [number for (rows,) in evaluation for number in metrics.gather_for_metrics(rows, exchange, watch)]
        assert [int(number) for number in seen] == list(range(9))
        assert len(metrics.gather_for_metrics(batch, exchange, watch)) == 8


def loaders_that_are_read_in_turn_are_kept_apart() -> None:
    exchange, watch = current().exchange, EpochWatch()
    rank = exchange.backend.world.rank

    def rows_of(data: Any) -> Any:
        return metrics.gather_for_metrics(data, exchange, watch)

    short, long = loader_of(9, watch), loader_of(16, watch)
    apart: list[list[int]] = [[], []]
    together: list[list[int]] = [[], []]
    locally: list[int] = []
    for (first,), (second,) in zip(short, long, strict=True):
        apart[0] += rows_of((first * 1, first.view(-1, 1)))[0].tolist()
        apart[1] += rows_of({"outputs": second * 1, "targets": second})["outputs"].tolist()
        both = rows_of((first, second))
        together = [seen + rows.tolist() for seen, rows in zip(together, both, strict=True)]
        locally += meter.real_rows(first, watch, rank).tolist()
    assert apart == together == [list(range(9)), list(range(16))]
    assert sorted(exchange.backend.gather_object(locally)[0] + exchange.backend.gather_object(locally)[1]) == apart[0]
    after = []
    for (first,) in short:
        for _ in loader_of(8, watch):  # one batch a rank: its epoch has as many rows as the outer batch
            pass
        after += rows_of(first).tolist()
    assert after == list(range(9))
    outputs = (first * 1 for (first,), _ in zip(short, long, strict=True))
    with pytest.warns(UserWarning, match="several loaders are read in turn"):
        assert len(list(map(rows_of, outputs))) == 2


def ranks_may_have_different_rows() -> None:
    exchange, watch = current().exchange, EpochWatch()
    seen: list[int] = []
    for (batch,) in loader_of(14, watch, even_batches=False):
        seen += metrics.gather_for_metrics(batch, exchange, watch).tolist()
    assert seen == list(range(14))
    rank = exchange.backend.world.rank
    rows = metrics.gather_for_metrics({"x": torch.full((rank, 3), rank), "y": torch.tensor(rank)}, exchange, watch)
    assert rows["x"].tolist() == [[1, 1, 1]]
    assert rows["y"].tolist() == [0, 1]


class Stream(IterableDataset[Tensor]):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(self.samples))


def streams_give_every_sample_once() -> None:
    exchange = current().exchange
    for samples in (1, 4, 5, 9, 14):
        for even in (True, False):
            for full in (True, False)[not even :]:
                config = DataLoaderConfiguration(even_batches=even, pad_last_batch=full)
                watch = EpochWatch()
                base = DataLoader(Stream(samples), batch_size=4)
                loader = ShardedLoader(base, exchange.backend, watch, LoaderOptions(config=config))
                mine, inside = [torch.empty(0, dtype=torch.int64)], []
                for batch in loader:
                    assert len(batch) == 4 or not full
                    mine.append(batch)
                    if even:  # else a rank may have a batch less
                        inside += metrics.gather_for_metrics(batch, exchange, watch).tolist()
                assert inside == (list(range(samples)) if even else []), (samples, even, full)
                after = metrics.gather_for_metrics(torch.cat(mine), exchange, watch).tolist()
                assert sorted(after) == list(range(samples)), (samples, even, full, after)
