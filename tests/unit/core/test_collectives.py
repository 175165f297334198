from __future__ import annotations

import pytest
import torch

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core import collectives
from notebook_accel.core.exchange import Exchange
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError
from notebook_accel.world import World

ALONE = Exchange(SingleBackend(World()))

# ---- one process


def test_alone_shapes_are_those_of_more_ranks():
    data = {"rows": torch.ones(2, 3), "loss": [torch.tensor(4.0)]}
    gathered = collectives.gather(data, ALONE)
    assert gathered["rows"].shape == (2, 3)
    assert gathered["loss"][0].tolist() == [4.0]
    assert collectives.reduce(data, ALONE, "mean")["loss"][0].item() == 4


def test_what_is_no_tensor_is_named():
    with pytest.raises(ConfigError, match=r"rank 0: gather got a str at \['a'\]\[1\]"):
        collectives.gather({"a": [torch.ones(1), "text"]}, ALONE)
    with pytest.raises(ConfigError, match="reduce got a float at the top"):
        collectives.reduce(1.0, ALONE)


def test_unknown_reduction_is_refused():
    with pytest.raises(ConfigError, match="'product'"):
        collectives.reduce(torch.ones(1), ALONE, "product")  # type: ignore[arg-type]


def test_alone_nothing_is_padded():
    tensor = torch.ones(2, 3)
    assert collectives.pad_across_processes(tensor, ALONE, dim=1) is tensor


# ---- two ranks: called by test_on_two_ranks.py


def nested_structures_are_joined_by_rank() -> None:
    exchange = current().exchange
    rank = exchange.backend.world.rank
    data = {"rows": torch.full((2, 2), rank), "pair": (torch.tensor(rank), [torch.tensor([rank == 1])])}
    gathered = collectives.gather(data, exchange)
    assert gathered["rows"].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert gathered["pair"][0].tolist() == [0, 1]
    assert gathered["pair"][1][0].tolist() == [False, True]
    assert collectives.reduce({"a": torch.tensor([1 + rank])}, exchange)["a"].tolist() == [3]
    assert collectives.reduce((torch.tensor(rank),), exchange, "mean")[0].item() == 0.5


def differing_shapes_are_an_error_on_every_rank() -> None:
    exchange = current().exchange
    rank = exchange.backend.world.rank
    mine, theirs = f"({2 + rank},)", f"({3 - rank},)"
    with pytest.raises(ConfigError) as caught:
        collectives.gather({"x": torch.ones(2 + rank)}, exchange)
    text = str(caught.value)
    assert f"gather: rank {rank} and rank {1 - rank} sent different things at ['x']" in text
    assert mine in text
    assert theirs in text
    assert "pad_across_processes" in text
    with pytest.raises(ConfigError, match=r"float64|float32"):
        collectives.reduce(torch.ones(2, dtype=torch.float64 if rank else torch.float32), exchange)
    with pytest.raises(ConfigError, match="1 dimensions of torch.float32"):
        collectives.pad_across_processes(torch.ones([2] * (1 + rank)), exchange)


def padding_reaches_the_longest() -> None:
    exchange = current().exchange
    rank = exchange.backend.world.rank
    tensor = torch.arange(1, 3 + rank).reshape(1, 2 + rank)
    padded = collectives.pad_across_processes([tensor], exchange, dim=1, pad_index=-1)[0]
    assert padded.tolist() == ([[1, 2, 3]] if rank else [[1, 2, -1]])
    first = collectives.pad_across_processes(tensor, exchange, dim=-1, pad_first=True)
    assert first.tolist() == ([[1, 2, 3]] if rank else [[0, 1, 2]])
    assert collectives.pad_across_processes(tensor, exchange, dim=2) is tensor
    assert collectives.pad_across_processes(torch.tensor(1), exchange).item() == 1
    assert collectives.gather(padded, exchange).tolist() == [[1, 2, -1], [1, 2, 3]]
