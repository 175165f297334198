"""Batches of few shapes: lengths rounded up, the last batch filled up."""

from __future__ import annotations

import itertools
from collections import UserDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from notebook_accel import Accelerator, DataLoaderConfiguration, LengthBuckets
from notebook_accel.core.runtime import Runtime
from notebook_accel.errors import ConfigError

pytestmark = pytest.mark.usefixtures("handler_of_dead_workers")


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(7))


def together(samples: list[int]) -> dict[str, Tensor]:
    """Sequences as long as the longest sample says."""
    longest = max(samples)
    return {
        "ids": torch.ones(len(samples), longest),
        "labels": torch.ones(len(samples), longest),
        "n": torch.tensor(samples),
    }


BUCKETS = LengthBuckets(lengths=(4, 8), fill={"ids": 0, "labels": -100})


def test_named_tensors_are_padded_to_the_next_length():
    batch = together([3, 5])
    padded = BUCKETS.padded(batch)
    assert torch.equal(padded["ids"], torch.tensor([[1.0] * 5 + [0.0] * 3] * 2))
    assert torch.equal(padded["labels"], torch.tensor([[1.0] * 5 + [-100.0] * 3] * 2))
    assert padded["n"] is batch["n"]
    assert BUCKETS.padded(together([4]))["ids"].shape == (1, 4)
    assert BUCKETS.padded(together([9]))["ids"].shape == (1, 16), "longer than all: a multiple of the last"


@pytest.mark.parametrize("kind", [tuple, list, UserDict])
def test_batches_keep_their_type(kind: type):
    parts = [torch.ones(2, 3), torch.ones(2)]
    batch = UserDict(enumerate(parts)) if kind is UserDict else kind(parts)
    padded = LengthBuckets(lengths=(4,), fill={0: 7}).padded(batch)
    assert type(padded) is kind
    assert padded[0][:, 3].tolist() == [7, 7]
    assert padded[1] is parts[1]


def test_one_tensor_under_two_names_is_filled_by_each():
    same = torch.ones(1, 3)
    padded = BUCKETS.padded({"ids": same, "labels": same})
    assert (padded["ids"][0, 3].item(), padded["labels"][0, 3].item()) == (0, -100)
    assert same.shape == (1, 3)


def test_tensors_of_different_lengths_get_one_and_a_batch_may_be_a_tensor():
    padded = BUCKETS.padded({"ids": torch.ones(1, 3, 2), "labels": torch.ones(1, 5)})
    assert (padded["ids"].shape, padded["labels"].shape) == ((1, 8, 2), (1, 8))
    assert LengthBuckets(lengths=(4,), fill={0: 0}, dim=0).padded(torch.ones(3)).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lengths": (), "fill": {"a": 0}}, "lengths is"),
        ({"lengths": (4, 4), "fill": {"a": 0}}, "lengths is"),
        ({"lengths": (0, 4), "fill": {"a": 0}}, "lengths is"),
        ({"lengths": (4,)}, "fill is empty"),
        ({"lengths": (4,), "fill": {"a": 0}, "dim": -1}, "dim is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        LengthBuckets(**wrong)


def test_a_place_that_cannot_be_padded_is_named():
    for batch, found in (
        ({"ids": torch.ones(2, 2)}, "nothing"),
        ({**together([1]), "labels": torch.ones(2)}, r"Tensor \[2\]"),
    ):
        with pytest.raises(ConfigError, match=rf"'labels' along dimension 1, but the batch has {found} there\n.*'ids'"):
            BUCKETS.padded(batch)
    with pytest.raises(ConfigError, match="even_batches=False forbids it"):
        DataLoaderConfiguration(pad_last_batch=True, even_batches=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_few_lengths(runtime: Runtime, workers: int):
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(length_buckets=BUCKETS))
    data = DataLoader(range(1, 9), batch_size=2, collate_fn=together, num_workers=workers)  # type: ignore[arg-type]
    loader = accelerator.prepare(data)
    assert [batch["ids"].shape for batch in loader] == [(2, 4), (2, 4), (2, 8), (2, 8)]
    assert data.collate_fn is together, "the user's own loader is as it was"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streams", [True, False])
def test_the_last_batch_is_filled_up_and_cut_from_what_is_gathered(runtime: Runtime, streams: bool, workers: int):
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(pad_last_batch=True))
    workers = 0 if streams else workers
    data: Any = Stream() if streams else torch.arange(7)
    loader = accelerator.prepare(DataLoader(data, batch_size=4, num_workers=workers))
    for _ in range(2):
        batches, gathered = [], []
        for batch in loader:
            batches.append(batch.tolist())
            gathered += accelerator.gather_for_metrics(batch).tolist()
        assert batches == [[0, 1, 2, 3], [4, 5, 6, 0]]
        assert gathered == list(range(7))
        assert accelerator.gather_for_metrics(torch.tensor(list(itertools.chain(*batches)))).tolist() == list(range(7))
    assert len(accelerator.prepare(DataLoader(torch.arange(7), batch_size=4))) == 2


def test_fewer_samples_than_a_batch_are_repeated(runtime: Runtime):
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(pad_last_batch=True))
    for data in (torch.arange(2), [torch.tensor(0), torch.tensor(1)]):
        assert [batch.tolist() for batch in accelerator.prepare(DataLoader(data, batch_size=5))] == [[0, 1, 0, 1, 0]]  # type: ignore[arg-type]
    assert [
        batch.tolist() for batch in accelerator.prepare(DataLoader(torch.arange(5), batch_size=2, drop_last=True))
    ] == [
        [0, 1],
        [2, 3],
    ]


def test_what_cannot_be_filled_up_is_refused(runtime: Runtime):
    accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(pad_last_batch=True))
    for base in (
        DataLoader(range(5), batch_sampler=[[0, 1], [2]]),  # type: ignore[arg-type]
        DataLoader(Stream(), batch_size=None),
    ):
        with pytest.raises(ConfigError, match="does not say how many samples a whole batch has"):
            accelerator.prepare(base)
    named = accelerator.prepare(DataLoader(Stream(), batch_size=4, collate_fn=lambda _: "no rows"))
    with pytest.raises(ConfigError, match="a batch without rows cannot be filled up to 4"):
        next(iter(named))
