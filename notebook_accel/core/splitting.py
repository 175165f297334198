"""A rank's part of something that has a length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from notebook_accel.errors import ConfigError


def part_of(inputs: Any, rank: int, world_size: int, *, pad: bool = False) -> Any:
    """Give ``rank``'s part of ``inputs``, of the same kind; the first ranks get one more where needed.

    Args:
        inputs: a list, a tuple, a tensor, an array, a dataset that can be sliced, or a dict of such.
        rank: 0-based.
        world_size: number of parts.
        pad: repeat the last element, so that all parts are of one length.

    Raises:
        ConfigError: ``inputs`` has no parts, or the values of a dict differ in length.

    Example:
        >>> [part_of(["a", "b", "c"], rank, 2) for rank in (0, 1)]
        [['a', 'b'], ['c']]
        >>> part_of({"x": (1, 2, 3)}, 1, 2, pad=True)
        {'x': (3, 3)}
    """
    if isinstance(inputs, Mapping):
        lengths = {name: _length(value, rank) for name, value in inputs.items()}
        if len(set(lengths.values())) > 1:
            what = f"rank {rank}: split_between_processes got a dict whose values differ in length: {lengths}"
            raise ConfigError(what, "give values of one length")
        return {name: part_of(value, rank, world_size, pad=pad) for name, value in inputs.items()}
    length = _length(inputs, rank)
    each, more = divmod(length, world_size)
    start = rank * each + min(rank, more)
    end = start + each + (rank < more)
    missing = each + bool(more) - (end - start)
    return _padded(inputs, start, end, missing) if pad and missing and length else inputs[start:end]


def _length(inputs: Any, rank: int) -> int:
    if isinstance(inputs, str) or not (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")):
        what = f"rank {rank}: split_between_processes got a {type(inputs).__name__}, which has no parts"
        raise ConfigError(what, "give a list, a tuple, a tensor, or a dict of them")
    if isinstance(inputs, Tensor) and not inputs.ndim:
        what = f"rank {rank}: split_between_processes got a scalar tensor, which has no parts"
        raise ConfigError(what, "give a tensor with a first dimension")
    return len(inputs)


def _padded(inputs: Any, start: int, end: int, missing: int) -> Any:
    part, last = inputs[start:end], inputs[len(inputs) - 1 :]
    if isinstance(inputs, Tensor):
        return torch.cat([part, last.expand(missing, *last.shape[1:])])
    if isinstance(inputs, Sequence):
        return part + last * missing
    # An array or a dataset picks rows by their numbers.
    numbers = [*range(start, end), *[len(inputs) - 1] * missing]
    return inputs.select(numbers) if hasattr(inputs, "select") else inputs[numbers]
