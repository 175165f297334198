from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core import collectives, metrics
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.loader import LoaderOptions, ShardedLoader
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError
from notebook_accel.world import World

ALONE = SingleBackend(World())

# ---- one process


def test_alone_shapes_are_those_of_more_ranks():
    data = {"rows": torch.ones(2, 3), "loss": [torch.tensor(4.0)]}
    gathered = collectives.gather(data, ALONE)
    assert gathered["rows"].shape == (2, 3)
    assert gathered["loss"][0].tolist() == [4.0]
    assert collectives.reduce(data, ALONE, "mean")["loss"][0].item() == 4


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match=r"rank 0: gather got a str at \['a'\]\[1\]"):
        collectives.gather({"a": [torch.ones(1), "text"]}, ALONE)
    with pytest.raises(TypeError, match="reduce got a float at the top"):
        collectives.reduce(1.0, ALONE)
    with pytest.raises(TypeError, match="objects in a dict"):
        metrics.gather_for_metrics({"a": "text"}, ALONE, EpochWatch())


def test_unknown_reduction_is_refused():
    with pytest.raises(ConfigError, match="'product'"):
        collectives.reduce(torch.ones(1), ALONE, "product")  # type: ignore[arg-type]


def test_alone_nothing_is_padded():
    tensor = torch.ones(2, 3)
    assert collectives.pad_across_processes(tensor, ALONE, dim=1) is tensor


# ---- two ranks: called by test_on_two_ranks.py


def nested_structures_are_joined_by_rank() -> None:
    backend = current().backend
    rank = backend.world.rank
    data = {"rows": torch.full((2, 2), rank), "pair": (torch.tensor(rank), [torch.tensor([rank == 1])])}
    gathered = collectives.gather(data, backend)
    assert gathered["rows"].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert gathered["pair"][0].tolist() == [0, 1]
    assert gathered["pair"][1][0].tolist() == [False, True]
    assert collectives.reduce({"a": torch.tensor([1 + rank])}, backend)["a"].tolist() == [3]
    assert collectives.reduce((torch.tensor(rank),), backend, "mean")[0].item() == 0.5


def differing_shapes_are_an_error_on_every_rank() -> None:
    backend = current().backend
    rank = backend.world.rank
    mine, theirs = f"({2 + rank},)", f"({3 - rank},)"
    with pytest.raises(ConfigError) as caught:
        collectives.gather({"x": torch.ones(2 + rank)}, backend)
    text = str(caught.value)
    assert f"rank {rank}: gather got" in text
    assert f"rank {1 - rank} has" in text
    assert mine in text
    assert theirs in text
    assert "pad_across_processes" in text
    with pytest.raises(ConfigError, match=r"float64|float32"):
        collectives.reduce(torch.ones(2, dtype=torch.float64 if rank else torch.float32), backend)
    with pytest.raises(ConfigError, match="pad_across_processes got"):
        collectives.pad_across_processes(torch.ones([2] * (1 + rank)), backend)


def padding_reaches_the_longest() -> None:
    backend = current().backend
    rank = backend.world.rank
    tensor = torch.arange(1, 3 + rank).reshape(1, 2 + rank)
    padded = collectives.pad_across_processes([tensor], backend, dim=1, pad_index=-1)[0]
    assert padded.tolist() == ([[1, 2, 3]] if rank else [[1, 2, -1]])
    first = collectives.pad_across_processes(tensor, backend, dim=-1, pad_first=True)
    assert first.tolist() == ([[1, 2, 3]] if rank else [[0, 1, 2]])
    assert collectives.pad_across_processes(tensor, backend, dim=2) is tensor
    assert collectives.pad_across_processes(torch.tensor(1), backend).item() == 1
    assert collectives.gather(padded, backend).tolist() == [[1, 2, -1], [1, 2, 3]]


def loader_of(samples: int, watch: EpochWatch, **options: bool) -> ShardedLoader:
    base = DataLoader(TensorDataset(torch.arange(samples)), batch_size=4)
    return ShardedLoader(base, current().backend, watch, LoaderOptions(**options))


def metrics_see_every_sample_once() -> None:
    backend = current().backend

    def collect(data: object) -> Tensor | list[int]:
        return metrics.gather_for_metrics(data, backend, watch)

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
    backend, watch = current().backend, EpochWatch()
    for _ in loader_of(9, watch):
        pass
    assert len(metrics.gather_for_metrics(torch.ones(40), backend, watch)) == 80
    for (batch,) in loader_of(5, watch):
        kept = metrics.gather_for_metrics(batch, backend, watch)
        assert kept.tolist() == list(range(5))
        break
    assert len(metrics.gather_for_metrics(torch.ones(40), backend, watch)) == 80


def evaluation_inside_a_training_loop_keeps_them_apart() -> None:
    backend, watch = current().backend, EpochWatch()
    evaluation = loader_of(9, watch)
    for (batch,) in loader_of(16, watch):
        seen = [number for (rows,) in evaluation for number in metrics.gather_for_metrics(rows, backend, watch)]
        assert [int(number) for number in seen] == list(range(9))
        assert len(metrics.gather_for_metrics(batch, backend, watch)) == 8
