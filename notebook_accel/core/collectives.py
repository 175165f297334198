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
    require_same(data, backend, "gather")
    return map_tree(lambda tensor: joined(tensor, backend), data)


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
    require_same(data, backend, "reduce")
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
    require_same(data, backend, "pad_across_processes", _dimensions)

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


def joined(tensor: Tensor, backend: Backend) -> Tensor:
    """Join every rank's rows of one tensor. Collective: all ranks must call this."""
    stacked = backend.all_gather(tensor)
    return stacked.flatten(0, 1) if tensor.ndim else stacked


def _signature(data: Any) -> Signature:
    return tuple((path, tuple(tensor.shape), str(tensor.dtype)) for path, tensor in leaves(data))


def _dimensions(data: Any) -> Signature:
    return tuple((path, (tensor.ndim,), str(tensor.dtype)) for path, tensor in leaves(data))


def require_same(data: Any, backend: Backend, verb: str, describe: Callable[[Any], Signature] = _signature) -> None:
    """Refuse data that is not of the same form on all ranks. Collective: all ranks must call this.

    Args:
        data: a nested structure of tensors.
        backend: the connection to the other ranks.
        verb: who asks, for the message.
        describe: what has to be the same.

    Raises:
        TypeError: a leaf is not a tensor.
        ConfigError: the forms differ.
    """
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
