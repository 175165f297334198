"""Tensors that share memory, such as tied weights: they are kept once and restored as one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor


def aliases(state: Mapping[str, Any]) -> dict[str, str]:
    """Give the names whose tensor is another name's, with that other name, the first of them.

    Tensors that only overlap are not one and the same.

    Args:
        state: tensors by name; what is no tensor has no alias.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> aliases({"b": weight, "a": weight, "c": weight[:1]})
        {'a': 'b'}
    """
    first: dict[Hashable, str] = {}
    found = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        # The object is known on every device, the memory only on some.
        known = next((first[place] for place in _places(tensor) if place in first), name)
        for place in _places(tensor):
            first.setdefault(place, known)
        if known != name:
            found[name] = known
    return found


def distinct(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give the same without the names whose tensor another name has.

    Args:
        state: tensors by name.
    """
    twice = aliases(state)
    return {name: tensor for name, tensor in state.items() if name not in twice}


def by_memory(state: Mapping[str, Any]) -> list[list[str]]:
    """Give the names in groups that lie in one piece of memory, in order of their first.

    Args:
        state: tensors by name.

    Example:
        >>> import torch
        >>> both = torch.ones(2)
        >>> by_memory({"a": both[:1], "b": torch.ones(1), "c": both[1:]})
        [['a', 'c'], ['b']]
    """
    groups: dict[Hashable, list[str]] = {}
    twice = aliases(state)
    owners: dict[str, Hashable] = {}
    for name, value in state.items():
        memory = memory_key(value) if isinstance(value, Tensor) else None
        owners[name] = owners[twice[name]] if name in twice else name if memory is None else memory
        groups.setdefault(owners[name], []).append(name)
    return list(groups.values())


def is_within(part: Tensor, whole: Tensor) -> bool:
    """Tell whether all of a tensor's memory is another's.

    Args:
        part: any tensor.
        whole: any tensor; one with gaps holds nothing but itself.

    Example:
        >>> import torch
        >>> whole = torch.ones(3)
        >>> is_within(whole[1:], whole), is_within(whole, whole[1:])
        (True, False)
    """
    memory = memory_key(part)
    if memory is None or memory != memory_key(whole):
        return False
    if _seen_as(part) == _seen_as(whole):
        return True
    if not whole.is_contiguous():
        return False
    last = sum((size - 1) * stride for size, stride in zip(part.shape, part.stride(), strict=True))
    start, end = part.data_ptr(), part.data_ptr() + (last + 1) * part.element_size()
    return whole.data_ptr() <= start and end <= whole.data_ptr() + whole.nbytes


def memory_key(tensor: Tensor) -> Hashable:
    """Give what tells one piece of memory from others; None for a tensor that has none, or none that is known."""
    try:
        address = tensor.untyped_storage().data_ptr() if tensor.numel() else 0
    except (RuntimeError, NotImplementedError):  # of a device, or a kind, whose memory has no address
        address = 0
    return (str(tensor.device), address) if address else None


def _places(tensor: Tensor) -> list[Hashable]:
    memory = memory_key(tensor)
    if memory is None:
        return [id(tensor)]
    return [id(tensor), (memory, *_seen_as(tensor))]


def _seen_as(tensor: Tensor) -> tuple[Hashable, ...]:
    """Give what makes two views of one piece of memory the same."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg()
