"""Structures of any form travel as leaf by leaf; what differs between ranks is named, on every rank."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core import collectives
from notebook_accel.core.exchange import Exchange
from notebook_accel.core.runtime import current
from notebook_accel.core.tree import leaves
from notebook_accel.errors import ConfigError
from notebook_accel.world import World
from tests.ranks import RunOnRanks

ALONE = Exchange(SingleBackend(World()))
DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8),
    *(torch.bool, torch.complex64),
)


def drawn(random_: random.Random, rank: int, *, uneven: bool = False, depth: int = 0) -> Any:
    """A structure that has the same form on all ranks, but other values."""
    kind = random_.random()
    if depth < 3 and kind < 0.5:
        items = [drawn(random_, rank, uneven=uneven, depth=depth + 1) for _ in range(random_.randrange(4))]
        return {f"k{number}": item for number, item in enumerate(items)} if kind < 0.25 else tuple(items)
    shape = [random_.randrange(4) for _ in range(random_.randrange(4))]
    dtype = random_.choice(DTYPES)
    view = random_.random()
    if uneven and shape:
        shape[0] += rank
    values = torch.arange(torch.Size(shape).numel() or 1)[: torch.Size(shape).numel()] + 10 * rank
    tensor = (values % 2 if dtype is torch.bool else values).to(dtype).view(shape)
    if tensor.ndim > 1 and view < 0.3:
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)  # not contiguous
    if dtype is torch.complex64 and view < 0.6:
        return (tensor + 1j).conj()
    if dtype is torch.float64 and view < 0.6:
        return (-1j * tensor).conj().imag  # its memory has the opposite of it
    if dtype is torch.float32 and view < 0.6:
        return tensor.requires_grad_()
    return tensor


def equal(first: Any, second: Any) -> bool:
    one, two = list(leaves(first)), list(leaves(second))
    return [path for path, _ in one] == [path for path, _ in two] and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.resolve_conj(), b.resolve_conj())
        for (_, a), (_, b) in zip(one, two, strict=True)
    )


def joined_by_hand(every: list[Any]) -> list[Tensor]:
    """The leaves of all ranks' structures, joined."""
    of_leaves = zip(*([leaf.detach().resolve_conj() for _, leaf in leaves(one)] for one in every), strict=True)
    return [torch.cat(pieces) if pieces[0].ndim else torch.stack(pieces) for pieces in of_leaves]


def exchanges() -> tuple[Exchange, Exchange]:
    """One that compares what ranks send, and one that does not."""
    return current().exchange, Exchange(current().backend, debug=False)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_alone_a_structure_comes_back(seed: int):
    data = drawn(random.Random(seed), 0)
    gathered = collectives.gather(data, ALONE)
    for (_, before), (_, after) in zip(leaves(data), leaves(gathered), strict=True):
        assert torch.equal(after, before.detach().resolve_conj().view(after.shape))
        assert not after.requires_grad
    assert equal(collectives.broadcast(data, ALONE), data)
    assert equal(collectives.pad_across_processes(data, ALONE), data)


# ---- any number of ranks


def structures_travel_whole() -> None:
    world = current().world
    for seed, exchange in itertools.product(range(60), exchanges()):
        every = [drawn(random.Random(seed), rank) for rank in range(world.world_size)]
        data = every[world.rank]
        gathered = [leaf for _, leaf in leaves(collectives.gather(data, exchange))]
        for ours, expected in zip(gathered, joined_by_hand(every), strict=True):
            assert ours.dtype == expected.dtype
            assert torch.equal(ours, expected), seed
            assert not ours.requires_grad
        for src in range(world.world_size):
            assert equal(collectives.broadcast(data, exchange, src), every[src]), seed


def numbers_are_combined_as_one_by_one() -> None:
    world = current().world
    # In one message, and by the engine's own reduction.
    for large, exchange in itertools.product((False, True), exchanges()):
        more = 40_000 if large else 1
        data = {"a": torch.arange(3.0).repeat(more) + world.rank, "b": [torch.tensor([world.rank] * 2 * more)]}
        ranks = range(world.world_size)
        total = collectives.reduce(data, exchange)
        assert torch.equal(total["a"], sum(torch.arange(3.0).repeat(more) + rank for rank in ranks))
        assert total["b"][0].dtype == torch.int64
        assert total["b"][0][0].item() == sum(ranks)
        mean = collectives.reduce(data, exchange, "mean", scale=2.0)
        assert mean["b"][0][0].item() == 2 * sum(ranks) / world.world_size
        assert collectives.reduce(data, exchange, "max")["a"][0].item() == world.world_size - 1


def uneven_rows_are_padded_and_joined() -> None:
    exchange = current().exchange
    world = exchange.backend.world
    for seed in range(40):
        data = drawn(random.Random(seed), world.rank, uneven=True)
        every = [drawn(random.Random(seed), rank, uneven=True) for rank in range(world.world_size)]
        joined = exchange.gather("test", list(leaves(data)), uneven=True)
        for number, ours in enumerate(joined):
            assert torch.equal(ours.tensor, joined_by_hand(every)[number]), seed
        padded = collectives.pad_across_processes(data, exchange, pad_index=1)
        for (_, leaf), (_, last) in zip(leaves(padded), leaves(every[-1]), strict=True):
            assert leaf.shape == last.shape


def sizes_may_change_from_message_to_message() -> None:
    exchange = current().exchange
    world = exchange.backend.world
    for rows in (1, 3000, 2, 500_000, 1, 20_000, 20_000, 0, 7):
        tensor = torch.full((rows, 2), world.rank, dtype=torch.int16)
        gathered = collectives.gather([tensor, torch.tensor(world.rank)], exchange)
        assert gathered[0].shape == (rows * world.world_size, 2)
        assert gathered[0][rows * world.rank : rows * (world.rank + 1)].eq(world.rank).all()
        assert gathered[1].tolist() == list(range(world.world_size))
    many = [torch.tensor(world.rank)] * 600  # their counts alone are more than a first message holds
    assert all(leaf.tolist() == list(range(world.world_size)) for leaf in collectives.gather(many, exchange))


def what_was_gathered_stays_when_more_is_sent() -> None:
    exchange = current().exchange
    for shape in ((), (1,), (1, 3), (2, 3), (0, 2)):
        before = collectives.gather([torch.full(shape, 7.0)], exchange)[0]
        collectives.gather([torch.full(shape, -1.0)], exchange)
        assert before.eq(7).all(), shape
        total = collectives.reduce([torch.full(shape, 7.0)], exchange, "max")[0]
        collectives.broadcast([torch.full(shape, -1.0)], exchange)
        assert total.eq(7).all(), shape


def differences_are_named_on_every_rank() -> None:
    exchange = current().exchange
    odd = exchange.backend.world.rank == exchange.backend.world.world_size - 1
    calls = {
        r"at \['x'\]\[1\].*\(3, 2\) of torch.float32": lambda: [torch.ones(1), torch.ones(3 if odd else 4, 2)],
        r"of torch.float64": lambda: [torch.ones(1, dtype=torch.float64 if odd else torch.float32)],
        r"\['x'\]\['a'\]": lambda: {"a" if odd else "b": torch.ones(1)},
        r"1 and 2 tensors|2 and 1 tensors": lambda: [torch.ones(1)] * (2 if odd else 1),
        r"a scalar of torch.float32": lambda: torch.ones(()) if odd else torch.ones(1),
    }
    for words, data in calls.items():
        for verb in (collectives.gather, collectives.reduce, collectives.broadcast):
            with pytest.raises(ConfigError, match=words) as caught:
                verb({"x": data()}, exchange)
            assert "rank" in str(caught.value)
    large = torch.ones(2_000_000 + odd)
    for verb in (collectives.gather, collectives.reduce, collectives.broadcast):
        with pytest.raises(ConfigError, match="2000001"):
            verb(large, exchange)
    with pytest.raises(ConfigError, match=r"gather\(\)"):
        (collectives.gather if odd else collectives.reduce)(torch.ones(1), exchange)
    assert len(collectives.gather(torch.ones(1), exchange)) == exchange.backend.world.world_size, "goes on afterwards"


def lists_of_objects_are_joined() -> None:
    backend = current().backend
    rank, size = backend.world.rank, backend.world.world_size
    assert collectives.gather_object([rank] * rank, backend) == [other for other in range(size) for _ in range(other)]
    with pytest.raises(ConfigError, match=f"rank {size - 1}: gather_object got a int"):
        collectives.gather_object(3 if rank == size - 1 else [3], backend)


BODIES = (
    structures_travel_whole,
    numbers_are_combined_as_one_by_one,
    uneven_rows_are_padded_and_joined,
    sizes_may_change_from_message_to_message,
    what_was_gathered_stays_when_more_is_sent,
    differences_are_named_on_every_rank,
    lists_of_objects_are_joined,
)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_on_several_ranks(ranks: int, run_on_ranks: RunOnRanks) -> None:
    for found in run_on_ranks(*BODIES, ranks=ranks, timeout_seconds=100):
        assert set(found) == {body.__name__ for body in BODIES}
