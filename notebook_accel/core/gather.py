"""Collectives over nested structures of tensors.

Shapes: ``W`` is the number of ranks, ``B`` one rank's rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend, ReduceOp
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.tree import leaves, map_tree
from notebook_accel.errors import ConfigError

Signature = tuple[tuple[str, tuple[int, ...], str], ...]


def gather(data: Any, backend: Backend) -> Any:
    """Join every rank's tensors along the first dimension. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of the same shapes on all ranks.
        backend: the connection to the other ranks.

    Shapes: ``(B, ...) -> (W * B, ...)``; ``() -> (W,)``.

    Raises:
        TypeError: a leaf is not a tensor.
        ConfigError: shapes or dtypes differ between ranks.
    """
    _require_same(data, backend, "gather")
    return map_tree(lambda tensor: _joined(tensor, backend), data)


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
    _require_same(data, backend, "gather_for_metrics")

    def without_padding(tensor: Tensor) -> Tensor:
        joined = _joined(tensor, backend)
        mask = watch.mask(tensor.shape[0]) if tensor.ndim else None
        return joined if mask is None or bool(mask.all()) else joined[mask.to(joined.device)]

    return map_tree(without_padding, data)


def reduce(data: Any, backend: Backend, reduction: ReduceOp = "sum") -> Any:
    """Combine every rank's tensors elementwise into new ones. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of the same shapes on all ranks.
        backend: the connection to the other ranks.
        reduction: "sum", "mean" or "max".

    Raises:
        TypeError: a leaf is not a tensor.
        ConfigError: shapes or dtypes differ between ranks, or ``reduction`` is unknown.
    """
    _require_same(data, backend, "reduce")
    return map_tree(lambda tensor: backend.all_reduce(tensor, reduction), data)


def pad_across_processes(
    data: Any, backend: Backend, *, dim: int = 0, pad_index: float = 0, pad_first: bool = False
) -> Any:
    """Pad every rank's tensors to the longest rank's. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of as many dimensions on all ranks.
        backend: the connection to the other ranks.
        dim: the dimension that differs between ranks; tensors without it come back unchanged.
        pad_index: what to pad with.
        pad_first: pad before the data instead of after it.

    Shapes: ``(..., n, ...) -> (..., max over the ranks of n, ...)``.

    Raises:
        TypeError: a leaf is not a tensor.
        ConfigError: the number of dimensions or the dtype differs between ranks.
    """
    _require_same(data, backend, "pad_across_processes", _dimensions)

    def padded(tensor: Tensor) -> Tensor:
        if not -tensor.ndim <= dim < tensor.ndim:
            return tensor
        length = tensor.shape[dim]
        longest = int(backend.all_reduce(torch.tensor(length, device=tensor.device), "max"))
        if longest == length:
            return tensor
        shape = list(tensor.shape)
        shape[dim] = longest
        result = tensor.new_full(shape, pad_index)
        result.narrow(dim, longest - length if pad_first else 0, length).copy_(tensor)
        return result

    return map_tree(padded, data)


def _joined(tensor: Tensor, backend: Backend) -> Tensor:
    stacked = backend.all_gather(tensor)
    return stacked.flatten(0, 1) if tensor.ndim else stacked


def _gathered_rows(data: Any, backend: Backend, watch: EpochWatch) -> list[Any]:
    if not isinstance(data, list):
        what = f"rank {backend.world.rank}: gather_for_metrics got objects in a {type(data).__name__}"
        hint = "pass a list with one object per row of the batch, or tensors only"
        raise TypeError(f"{what}\n  -> {hint}")
    by_rank = backend.gather_object(data)
    rows = [row for of_rank in by_rank for row in of_rank]
    mask = watch.mask(len(data)) if len(rows) == len(data) * len(by_rank) else None
    return rows if mask is None else [row for row, keep in zip(rows, mask.tolist(), strict=True) if keep]


def _signature(data: Any) -> Signature:
    return tuple((path, tuple(tensor.shape), str(tensor.dtype)) for path, tensor in leaves(data))


def _dimensions(data: Any) -> Signature:
    return tuple((path, (tensor.ndim,), str(tensor.dtype)) for path, tensor in leaves(data))


def _require_same(data: Any, backend: Backend, verb: str, describe: Callable[[Any], Signature] = _signature) -> None:
    # Engines do not compare shapes: a mismatch would hang, or mix up numbers without a word.
    rank = backend.world.rank
    for path, leaf in leaves(data):
        if not isinstance(leaf, Tensor):
            what = f"rank {rank}: {verb} got a {type(leaf).__name__} at {path or 'the top'}"
            raise TypeError(f"{what}\n  -> pass tensors, in lists, tuples or dicts")
    mine = describe(data)
    digest = int.from_bytes(hashlib.blake2b(repr(mine).encode(), digest_size=8).digest(), "little", signed=True)
    digests = backend.all_gather(torch.tensor(digest, device=backend.device))
    if bool((digests == digest).all()):
        return
    others = backend.gather_object(mine)
    other = next(number for number, theirs in enumerate(others) if theirs != mine)
    what = f"rank {rank}: {verb} got {mine}, but rank {other} has {others[other]}"
    raise ConfigError(what, "make them alike on all ranks; pad_across_processes() evens out one dimension")
