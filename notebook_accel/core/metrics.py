"""Gathering what an evaluation needs: every sample once.

Shapes: ``W`` is the number of ranks, ``B`` one rank's rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.core.collectives import joined, require_same
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.tree import leaves, map_tree


def gather_for_metrics(data: Any, backend: Backend, watch: EpochWatch, *, as_objects: bool = False) -> Any:
    """Gather, and leave out the rows that only filled up a last batch. Collective: all ranks must call this.

    Args:
        data: a nested structure of tensors; or a list with one object per row, where ``as_objects`` or where it holds
            anything but tensors.
        backend: the connection to the other ranks.
        watch: the passes over the loaders, which know the padding.
        as_objects: send the list as picklable objects.

    Shapes: ``(B, ...) -> (rows without padding, ...)``.

    Raises:
        TypeError: objects that are not in a list.
        ConfigError: shapes, dtypes or lengths differ between ranks.
    """
    if as_objects or not all(isinstance(leaf, Tensor) for _, leaf in leaves(data)):
        return _gathered_rows(data, backend, watch)
    require_same(data, backend, "gather_for_metrics")

    def without_padding(tensor: Tensor) -> Tensor:
        rows = joined(tensor, backend)
        mask = watch.mask(tensor.shape[0]) if tensor.ndim else None
        return rows if mask is None or bool(mask.all()) else rows[mask.to(rows.device)]

    return map_tree(without_padding, data)


def _gathered_rows(data: Any, backend: Backend, watch: EpochWatch) -> list[Any]:
    if not isinstance(data, list):
        what = f"rank {backend.world.rank}: gather_for_metrics got objects in a {type(data).__name__}"
        hint = "pass a list with one object per row of the batch, or tensors only"
        raise TypeError(f"{what}\n  -> {hint}")
    by_rank = backend.gather_object(data)
    rows = [row for of_rank in by_rank for row in of_rank]
    mask = watch.mask(len(data)) if len(rows) == len(data) * len(by_rank) else None
    return rows if mask is None else [row for row, keep in zip(rows, mask.tolist(), strict=True) if keep]
