"""Sharing out batches that have been read, for data that cannot be picked by number.

Shapes: ``W`` is the number of ranks, ``B`` the rows of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from notebook_accel.core.epoch import UNKNOWN, Round
from notebook_accel.core.sharding import Sharding
from notebook_accel.core.tree import leaves, map_tree
from notebook_accel.errors import ConfigError

Slice = Callable[[Any, slice], Any]


class Hand(NamedTuple):
    """One step of all ranks.

    Attributes:
        batches: by rank; a rank may get none in the last step.
        round: how many rows each has, and how many of them are not padding.
    """

    batches: list[Any]
    round: Round


class Nothing:
    """Stands for no batch: None may be one."""


NOTHING = Nothing()


def hands(batches: Iterable[Any], plan: Sharding, slice_rows: Slice | None = None) -> Iterator[Hand]:
    """Give, step by step, every rank's batch.

    Whole batches go round, of whatever length they are, or filled up where they are to be full; where batches are
    split, each is cut into ``W`` parts. In the last step ranks without a batch get one from the first step, all of it
    padding, if all ranks are to get the same.

    Args:
        batches: of the whole run.
        plan: how they are shared out.
        slice_rows: takes rows out of a batch; that of tensors where left out.

    Raises:
        ConfigError: a batch is to be split or filled up and has no rows.

    Example:
        >>> plan = Sharding(rank=0, world_size=2, batch_size=None, drop_last=False, split=False, even=False)
        >>> [hand.batches for hand in hands(["a", "b", "c"], plan)][0]
        ['a', 'b']
    """
    return _parts(batches, plan, slice_rows or slice_tensors) if plan.split else _whole(batches, plan)


def _whole(batches: Iterable[Any], plan: Sharding) -> Iterator[Hand]:
    first: list[Any] = []
    hand: list[Any] = []
    real: list[int | None] = []  # rows of each, before it was filled up
    for batch in batches:
        real.append(_rows(batch, plan))
        hand.append(_full(batch, first or hand, plan) if plan.full else batch)
        if len(hand) == plan.world_size:
            first = first or (hand if plan.even else [])
            yield Hand(hand, _round(hand, real, plan))
            hand, real = [], []
    if not hand or plan.drop_last:
        return
    missing = plan.world_size - len(hand)
    fill = [(first or hand)[number % len(first or hand)] for number in range(missing)]
    hand = hand + (fill if plan.even else [NOTHING] * missing)
    yield Hand(hand, _round(hand, real, plan))


def _full(batch: Any, before: list[Any], plan: Sharding) -> Any:
    """Give ``batch`` with as many rows as all have, the missing ones from the first that came before."""
    if plan.batch_size is None or not plan.even:
        return batch
    rows = rows_of(batch)
    if not rows:
        what = f"rank {plan.rank}: a batch without rows cannot be filled up to {plan.batch_size}"
        raise ConfigError(what, "leave pad_last_batch out, or let batches hold tensors with a row for each sample")
    return _filled(before[0] if before else batch, batch, plan.batch_size - rows)


def _rows(batch: Any, plan: Sharding) -> int | None:
    """Give the rows of a batch; a sample that comes alone and has none is one."""
    rows = rows_of(batch)
    return 1 if rows is None and plan.batch_size is None else rows


def _round(hand: list[Any], real: list[int | None], plan: Sharding) -> Round:
    sizes = [0 if isinstance(batch, Nothing) else _rows(batch, plan) for batch in hand]
    known = tuple([size for size in sizes if size is not None])
    if len(known) < len(sizes) or None in real:
        return UNKNOWN
    return Round(known, (*[rows for rows in real if rows is not None], *[0] * (len(known) - len(real))))


def _parts(batches: Iterable[Any], plan: Sharding, slice_rows: Slice) -> Iterator[Hand]:
    for batch in batches:
        rows = rows_of(batch)
        if not rows:
            what = f"rank {plan.rank}: a batch without rows cannot be split among {plan.world_size} ranks"
            raise ConfigError(what, "leave split_batches out, or let batches hold tensors with a row for each sample")
        each, more = divmod(rows, plan.world_size)
        if plan.even:
            whole = (plan.batch_size or 0) // plan.world_size if plan.full else 0
            size = max(whole, each + bool(more))
            spans = [(min(rank * size, rows), min(rank * size + size, rows)) for rank in range(plan.world_size)]
        else:
            size = 0
            ends = [rank * each + min(rank, more) for rank in range(plan.world_size + 1)]
            spans = list(itertools.pairwise(ends))
        parts = [_filled(batch, slice_rows(batch, slice(*span)), size - (span[1] - span[0])) for span in spans]
        real = tuple([end - start for start, end in spans])
        yield Hand(parts, Round(tuple([max(size, count) for count in real]), real))


def _filled(batch: Any, part: Any, missing: int) -> Any:
    """Give ``part`` with as many rows from the start of ``batch``, again and again, as are missing."""
    if missing <= 0:
        return part
    whole = iter([leaf for _, leaf in leaves(batch)])

    def fill(leaf: Any) -> Any:
        of_batch = next(whole)
        if not (isinstance(leaf, Tensor) and leaf.ndim):
            return leaf
        numbers = torch.arange(missing, device=leaf.device) % len(of_batch)
        return torch.cat([leaf, of_batch[numbers]])

    return map_tree(fill, part)


def rows_of(batch: Any) -> int | None:
    """Give the number of rows of the first tensor in a batch, None where there is none."""
    return next((len(leaf) for _, leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), None)


def slice_tensors(data: Any, rows: slice) -> Any:
    """Take rows out of every tensor of a structure; all else stays whole."""
    return map_tree(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) and leaf.ndim else leaf, data)
