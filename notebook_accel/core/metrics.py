"""Gathering what an evaluation needs: every sample once.

Shapes: ``W`` is the number of ranks, ``B`` one rank's rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from notebook_accel.core.collectives import tensors_of
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.exchange import Exchange, Joined
from notebook_accel.core.tree import leaves, map_tree
from notebook_accel.errors import ConfigError


def gather_for_metrics(data: Any, exchange: Exchange, watch: EpochWatch, *, as_objects: bool = False) -> Any:
    """Gather, and leave out the rows that only filled up a last batch. Collective: all ranks must call this.

    Where several loaders are read in turn, or a loop's batch is gathered after one inside of it, rows may fit more than
    one of them: a tensor of the batch among the data tells which, as in ``gather_for_metrics((outputs, targets))``.

    Ranks may give different numbers of rows. Scalars have no rows: they come back as one for each rank, those of a
    rank whose batch was all padding too; give sums and counts of rows instead.

    Args:
        data: a nested structure of tensors; or a list with one object per row, where ``as_objects`` or where it holds
            anything but tensors.
        exchange: carries it.
        watch: the passes over the loaders, which know the padding.
        as_objects: send the list as picklable objects.

    Shapes: ``(B, ...) -> (rows without padding, ...)``; ``() -> (W,)``.

    Raises:
        ConfigError: objects that are not in a list, or shapes, dtypes or the structure differ between ranks.
    """
    if isinstance(data, Tensor) and not as_objects:
        (joined,) = exchange.gather("gather_for_metrics", [("", data)], uneven=True)
        return _kept(joined, watch, data)
    if as_objects or not all(isinstance(leaf, Tensor) for _, leaf in leaves(data)):
        return _gathered_rows(data, exchange, watch)
    found = tensors_of(data, exchange, "gather_for_metrics")
    every = zip(exchange.gather("gather_for_metrics", found, uneven=True), found, strict=True)
    kept = iter([_kept(joined, watch, (tensor, data)) for joined, (_, tensor) in every])
    return map_tree(lambda _: next(kept), data)


def _kept(joined: Joined, watch: EpochWatch, data: Any) -> Tensor:
    mask = watch.mask(joined.rows, data) if joined.rows else None
    return joined.tensor if mask is None else joined.tensor[mask.to(joined.tensor.device)]


def _gathered_rows(data: Any, exchange: Exchange, watch: EpochWatch) -> list[Any]:
    if not isinstance(data, list):
        what = f"rank {exchange.backend.world.rank}: gather_for_metrics got objects in a {type(data).__name__}"
        raise ConfigError(what, "pass a list with one object per row of the batch, or tensors only")
    by_rank = exchange.backend.gather_object(data)
    rows = [row for of_rank in by_rank for row in of_rank]
    mask = watch.mask(tuple(map(len, by_rank)), data)
    return rows if mask is None else [row for row, keep in zip(rows, mask.tolist(), strict=True) if keep]
