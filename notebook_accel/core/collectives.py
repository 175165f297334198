"""Collectives over nested structures of tensors: one message for all of it.

Shapes: ``W`` is the number of ranks, ``B`` one rank's rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend, ReduceOp, check_op
from notebook_accel.core.exchange import Exchange
from notebook_accel.core.tree import leaves, map_tree
from notebook_accel.errors import ConfigError

# Up to here it is quicker to send everything to everybody in one message, which is compared as well.
_SMALL_BYTES = 1 << 16

Leaf = tuple[str, Tensor]


def gather(data: Any, exchange: Exchange) -> Any:
    """Join every rank's tensors along the first dimension. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of the same shapes on all ranks.
        exchange: carries it.

    Shapes: ``(B, ...) -> (W * B, ...)``; ``() -> (W,)``.

    Raises:
        ConfigError: a leaf is not a tensor, or shapes or dtypes differ between ranks.
    """
    if isinstance(data, Tensor):
        return exchange.gather("gather", [("", data)])[0].tensor
    return _rebuilt(data, [joined.tensor for joined in exchange.gather("gather", tensors_of(data, exchange, "gather"))])


def reduce(data: Any, exchange: Exchange, reduction: ReduceOp = "sum", scale: float = 1.0) -> Any:
    """Combine every rank's tensors elementwise into new ones. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of the same shapes on all ranks.
        exchange: carries it.
        reduction: "sum", "mean" or "max".
        scale: what the result is multiplied with.

    Raises:
        ConfigError: a leaf is not a tensor, shapes or dtypes differ between ranks, or ``reduction`` is unknown.
    """
    check_op(reduction)
    found = tensors_of(data, exchange, "reduce")
    if _is_small(found) and exchange.checks:
        stacks = zip(exchange.gather("reduce", found), found, strict=True)
        combined = [
            _combined(joined.tensor, tensor, reduction, exchange.backend.world.world_size)
            for joined, (_, tensor) in stacks
        ]
    else:
        exchange.compare("reduce", found)
        combined = _together(found, lambda flat: exchange.backend.all_reduce(flat, reduction))
    return _rebuilt(data, combined if scale == 1 else [tensor * scale for tensor in combined])


def broadcast(data: Any, exchange: Exchange, src: int = 0) -> Any:
    """Give rank ``src``'s tensors as new ones on every rank. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of the same shapes on all ranks.
        exchange: carries it.
        src: whose tensors are sent.

    Raises:
        ConfigError: a leaf is not a tensor, shapes or dtypes differ between ranks, or there is no rank ``src``.
    """
    check_rank(src, exchange.backend)
    found = tensors_of(data, exchange, "broadcast")
    if _is_small(found) and exchange.checks:
        world_size = exchange.backend.world.world_size
        rows = zip(exchange.gather("broadcast", found), found, strict=True)
        sent = [joined.tensor.view(world_size, *tensor.shape)[src].clone() for joined, (_, tensor) in rows]
    else:
        exchange.compare("broadcast", found)
        sent = _together(found, lambda flat: exchange.backend.broadcast(flat, src))
    return _rebuilt(data, sent)


def pad_across_processes(
    data: Any, exchange: Exchange, *, dim: int = 0, pad_index: float = 0, pad_first: bool = False
) -> Any:
    """Pad every rank's tensors to the longest rank's. Collective: all ranks must call this.

    Args:
        data: a tensor or a nested structure of tensors, of as many dimensions on all ranks.
        exchange: carries the lengths.
        dim: the dimension that differs between ranks; tensors without it come back unchanged.
        pad_index: what to pad with.
        pad_first: pad before the data instead of after it.

    Shapes: ``(..., n, ...) -> (..., max over the ranks of n, ...)``.

    Raises:
        ConfigError: a leaf is not a tensor, or the number of dimensions or the dtype differs between ranks.
    """
    found = tensors_of(data, exchange, "pad_across_processes")
    lengths = [
        (
            f"{path or 'a tensor'} with {tensor.ndim} dimensions of {tensor.dtype}",
            torch.tensor(tensor.shape[dim] if -tensor.ndim <= dim < tensor.ndim else -1),
        )
        for path, tensor in found
    ]
    longest = [int(joined.tensor.max()) for joined in exchange.gather("pad_across_processes", lengths)]

    def padded(tensor: Tensor, wanted: int) -> Tensor:
        if wanted < 0 or tensor.shape[dim] == wanted:
            return tensor
        shape = list(tensor.shape)
        length, shape[dim] = shape[dim], wanted
        result = tensor.new_full(shape, pad_index)
        result.narrow(dim, wanted - length if pad_first else 0, length).copy_(tensor)
        return result

    return _rebuilt(data, [padded(tensor, wanted) for (_, tensor), wanted in zip(found, longest, strict=True)])


def gather_object(obj: Any, backend: Backend) -> list[Any]:
    """Give what is in every rank's list, rank 0's first. Collective: all ranks must call this.

    Args:
        obj: a list of picklable objects.
        backend: the connection to the other ranks.

    Raises:
        ConfigError: on some rank it is no list, or holds what cannot be pickled.
    """
    if not isinstance(obj, (list, tuple)):
        what = f"rank {backend.world.rank}: gather_object got a {type(obj).__name__}"
        problem: Any = ConfigError(what, "pass a list: gather_object([result])")
    else:
        problem = None
    by_rank = backend.gather_object(list(obj) if problem is None else problem)
    for of_rank in by_rank:
        if isinstance(of_rank, ConfigError):
            raise of_rank
    return list(itertools.chain.from_iterable(by_rank))


def tensors_of(data: Any, exchange: Exchange, verb: str) -> list[Leaf]:
    """Give the leaves of a structure with their paths.

    Args:
        data: a nested structure of tensors.
        exchange: knows the rank, for the message.
        verb: who asks, for the message.

    Raises:
        ConfigError: a leaf is not a tensor.
    """
    found = list(leaves(data))
    for path, leaf in found:
        if not isinstance(leaf, Tensor):
            what = f"rank {exchange.backend.world.rank}: {verb} got a {type(leaf).__name__} at {path or 'the top'}"
            raise ConfigError(what, "pass tensors, in lists, tuples or dicts")
    return found


def check_rank(rank: int, backend: Backend) -> None:
    """Refuse the number of a rank that does not exist.

    Raises:
        ConfigError: it is not one of the run's.
    """
    if not 0 <= rank < backend.world.world_size:
        what = f"there is no rank {rank} in a run of {backend.world.world_size}"
        raise ConfigError(what, f"use 0 to {backend.world.world_size - 1}")


def _rebuilt(data: Any, tensors: Sequence[Tensor]) -> Any:
    remaining = iter(tensors)
    return map_tree(lambda _: next(remaining), data)


def _is_small(found: Sequence[Leaf]) -> bool:
    return sum(tensor.nbytes for _, tensor in found) <= _SMALL_BYTES


def _combined(joined: Tensor, tensor: Tensor, reduction: ReduceOp, world_size: int) -> Tensor:
    """Combine what the ranks sent, in the order of the ranks."""
    stacked = joined.view(world_size, *tensor.shape)
    if reduction == "max":
        return stacked.amax(0)
    total = stacked.sum(0, dtype=tensor.dtype)
    return total / world_size if reduction == "mean" else total


def _together(found: Sequence[Leaf], send: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Send all tensors of a dtype and device as one."""
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for number, (_, tensor) in enumerate(found):
        groups.setdefault((tensor.dtype, tensor.device), []).append(number)
    sent: dict[int, Tensor] = {}
    for numbers in groups.values():
        tensors = [found[number][1] for number in numbers]
        if len(tensors) == 1:
            sent[numbers[0]] = send(tensors[0])
            continue
        flat = send(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
        for number, tensor, part in zip(numbers, tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            sent[number] = part.view(tensor.shape)
    return [sent[number] for number in range(len(found))]
