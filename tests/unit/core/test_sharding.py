from __future__ import annotations

import itertools
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from notebook_accel.core import sharding
from notebook_accel.core.epoch import EpochLedger
from notebook_accel.core.sharding import Expected, ShardedBatchSampler, Sharding, rounds


def plan(world_size: int, batch_size: int | None, *, rank: int = 0, **how: bool) -> Sharding:
    chosen = {"drop_last": False, "split": False, "even": world_size > 1, **how}
    return Sharding(rank=rank, world_size=world_size, batch_size=batch_size, **chosen)


def batches(samples: int, batch_size: int, *, drop_last: bool = False) -> BatchSampler:
    return BatchSampler(SequentialSampler(range(samples)), batch_size, drop_last)


def dealt(samples: int, batch_size: int, world_size: int, **how: bool) -> list[Any]:
    source = batches(samples, batch_size, drop_last=how.get("drop_last", False))
    return [by_rank for by_rank, _ in rounds(source, plan(world_size, batch_size, **how))]


CASES = list(itertools.product(range(1, 26), [1, 2, 4, 6], [1, 2, 3, 4], [False, True]))


def test_whole_batches_go_round():
    assert dealt(8, 2, 2) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_a_short_last_batch_is_filled_from_the_start():
    assert dealt(9, 5, 2) == [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 0]]]


def test_a_missing_batch_is_filled_from_the_start():
    assert dealt(6, 2, 2) == [[[0, 1], [2, 3]], [[4, 5], [0, 1]]]
    assert dealt(10, 2, 2)[-1] == [[8, 9], [0, 1]]


def test_fewer_samples_than_one_batch_are_cycled():
    assert dealt(3, 5, 2) == [[[0, 1, 2, 0, 1], [2, 0, 1, 2, 0]]]


def test_uneven_batches_are_left_as_they_are():
    assert dealt(5, 2, 2, even=False) == [[[0, 1], [2, 3]], [[4], []]]


def test_drop_last_leaves_the_incomplete_round_out():
    assert dealt(7, 2, 2, drop_last=True) == [[[0, 1], [2, 3]]]


def test_split_batches_are_cut_in_order():
    assert dealt(6, 4, 2, split=True) == [[[0, 1], [2, 3]], [[4, 5], [0, 1]]]
    assert dealt(7, 4, 2, split=True, even=False) == [[[0, 1], [2, 3]], [[4, 5], [6]]]


def test_one_process_gets_the_loader_as_it_is():
    assert dealt(5, 2, 1) == [[[0, 1]], [[2, 3]], [[4]]]


def test_a_sampler_may_fill_the_same_list_again():
    def refilled():
        numbers: list[int] = []
        for first in (0, 2, 4):
            numbers[:] = [first, first + 1]
            yield numbers

    assert [given for given, _ in list(rounds(refilled(), plan(1, 2)))] == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_batches_of_the_users_own_sizes_are_never_changed():
    own = [[0], [1, 2], [3, 4, 5]]
    given = [(parts, its.real) for parts, its in rounds(own, plan(2, None))]
    assert given == [([[0], [1, 2]], (1, 2)), ([[3, 4, 5], [0]], (3, 0))]


@pytest.mark.parametrize("even", [True, False])
def test_real_rows_are_every_sample_once(even: bool):
    for samples, size, world, split in CASES:
        if split and size % world:
            continue
        deals = list(rounds(batches(samples, size), plan(world, size, split=split, even=even and world > 1)))
        real = [row for parts, its in deals for part, n in zip(parts, its.real, strict=True) for row in part[:n]]
        assert real == list(range(samples)), (samples, size, world, split)
        assert all(its.sizes == tuple(map(len, parts)) for parts, its in deals)
        if even and world > 1:
            wanted = size // world if split else size
            assert {n for _, its in deals for n in its.sizes} == {wanted}, (samples, size, world, split)


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("even", [True, False])
def test_length_is_the_number_of_batches(even: bool, drop_last: bool):
    for samples, size, world, split in CASES:
        if split and size % world:
            continue
        for rank in range(world):
            its = plan(world, size, rank=rank, split=split, even=even and world > 1, drop_last=drop_last)
            sampler = ShardedBatchSampler(batches(samples, size, drop_last=drop_last), its, nullcontext)
            assert len(list(sampler)) == len(sampler), (samples, size, world, split, rank)


def test_a_stream_without_end_is_read_only_as_far_as_needed():
    endless = ([number] for number in itertools.count())
    sampler = ShardedBatchSampler(endless, plan(2, 1, rank=1), nullcontext)
    assert list(itertools.islice(sampler, 3)) == [[1], [3], [5]]


def test_a_sampler_without_length_says_so():
    with pytest.raises(TypeError):
        len(ShardedBatchSampler(iter([[1]]), plan(2, 1), nullcontext))


def passed(sampler: Any, its: Sharding, skip: int, lookahead: int = 1) -> tuple[list[Any], list[int], list[Any]]:
    """Read a pass; give its batches, what was known to follow each, and its rounds."""
    ledger, sharded = EpochLedger(), ShardedBatchSampler(sampler, its, nullcontext)
    sharded.expect(Expected(ledger, skip=skip, lookahead=lookahead))
    read, follows, rounds_ = [], [], []
    for batch in sharded:
        ledger.advance()
        read.append(batch)
        follows.append(ledger.remaining)
        rounds_.append(ledger.current)
    return read, follows, rounds_


@pytest.mark.parametrize("lookahead", [1, 3])
def test_the_ledger_knows_what_follows(lookahead: int):
    _, follows, _ = passed(list(batches(10, 1)), plan(2, 1), 0, lookahead)
    assert follows == [min(lookahead, 4 - step) for step in range(5)]
    assert passed(batches(10, 1), plan(2, 1), 0)[1] == [4, 3, 2, 1, 0], "foreseen"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 12), st.tuples(*[st.booleans()] * 2))
def test_what_is_foreseen_is_what_comes(samples: int, size: int, world: int, skip: int, how: tuple[bool, bool]):
    even, drop_last = how
    for rank in range(world):
        its = plan(world, size, rank=rank, even=even, drop_last=drop_last)
        sampler = batches(samples, size, drop_last=drop_last)
        foreseen = passed(sampler, its, skip)
        seen = passed(list(sampler), its, skip)
        assert (foreseen[0], foreseen[2]) == (seen[0], seen[2])
        assert [min(1, follows) for follows in foreseen[1]] == seen[1]


@pytest.mark.parametrize("random", [False, True])
def test_no_lists_are_made_of_what_is_left_out(monkeypatch: pytest.MonkeyPatch, random: bool):
    samples, made = 4_000, []

    class Counted(BatchSampler):
        def __iter__(self):
            for batch in super().__iter__():
                made.append(batch)
                yield batch

    torch.manual_seed(1)
    order = list(RandomSampler(range(samples))) if random else list(range(samples))
    torch.manual_seed(1)
    kind = RandomSampler if random else SequentialSampler
    monkeypatch.setattr(sharding, "BatchSampler", Counted)
    sampler = Counted(kind(range(samples)), 2, drop_last=False)
    assert passed(sampler, plan(2, 2, rank=1), 998)[0] == [order[-6:-4], order[-2:]]
    assert made == [order[0:2], order[2:4], order[-8:-6], order[-6:-4], order[-4:-2], order[-2:]]


def test_the_first_batches_are_drawn_in_the_given_block():
    inside, drawn_inside = [], []

    @contextmanager
    def block():
        inside.append(1)
        yield
        inside.clear()

    def source():
        for number in range(6):
            drawn_inside.append(bool(inside))
            yield [number]

    assert len(list(ShardedBatchSampler(source(), plan(2, 1), block))) == 3
    assert drawn_inside[0]
    assert not drawn_inside[-1]
