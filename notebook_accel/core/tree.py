"""Nested containers of tensors: walk over them and build them anew."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor


def map_tree(function: Callable[[Any], Any], data: Any) -> Any:
    """Apply ``function`` to every leaf; the containers keep their types.

    Containers are lists, tuples (named ones and torch's return types too) and mappings; all else is a leaf.

    Example:
        >>> map_tree(lambda leaf: leaf + 1, {"a": [1, 2], "b": (3,)})
        {'a': [2, 3], 'b': (4,)}
    """
    if isinstance(data, (list, tuple)):
        return _rebuilt_sequence(data, [map_tree(function, item) for item in data])
    if isinstance(data, Mapping):
        return _rebuilt_mapping(data, {key: map_tree(function, item) for key, item in data.items()})
    return function(data)


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every leaf with the path to it, in the order of ``map_tree``.

    Example:
        >>> list(leaves({"a": [1, 2]}, "batch"))
        [("batch['a'][0]", 1), ("batch['a'][1]", 2)]
    """
    if isinstance(data, (list, tuple)):
        for number, item in enumerate(data):
            yield from leaves(item, f"{path}[{number}]")
    elif isinstance(data, Mapping):
        for key, item in data.items():
            yield from leaves(item, f"{path}[{key!r}]")
    else:
        yield path, data


def move(data: Any, device: torch.device, *, non_blocking: bool = False) -> Any:
    """Bring every tensor, and every object with a ``to`` method, to ``device``; all else stays.

    Args:
        data: a nested structure.
        device: where to.
        non_blocking: do not wait for copies from pinned memory.

    Example:
        >>> move(["text", torch.ones(1)], torch.device("cpu"))
        ['text', tensor([1.])]
    """
    if isinstance(data, Tensor):
        return data if data.device == device else data.to(device, non_blocking=non_blocking)
    if type(data) is not list and hasattr(data, "to"):
        return data.to(device)
    if isinstance(data, (list, tuple)):
        return _rebuilt_sequence(data, [move(item, device, non_blocking=non_blocking) for item in data])
    if isinstance(data, Mapping):
        moved = {key: move(item, device, non_blocking=non_blocking) for key, item in data.items()}
        return _rebuilt_mapping(data, moved)
    return data


def with_items(data: Any, changed: Mapping[Any, Any]) -> Any:
    """Give a list, tuple or mapping of the same type with some of its items changed.

    Args:
        data: the container.
        changed: the new items by their key or number.

    Example:
        >>> with_items(("a", "b"), {1: "c"})
        ('a', 'c')
    """
    if isinstance(data, Mapping):
        return _rebuilt_mapping(data, {**data, **changed})
    return _rebuilt_sequence(data, [changed.get(number, item) for number, item in enumerate(data)])


def _rebuilt_sequence(data: list[Any] | tuple[Any, ...], items: list[Any]) -> Any:
    kind = type(data)
    if kind is list:
        return items
    if hasattr(kind, "_make"):
        return kind._make(items)
    return kind(items)


def _rebuilt_mapping(data: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    if type(data) is dict:
        return items
    if not isinstance(data, MutableMapping):
        return type(data)(items)  # type: ignore[call-arg]  # the usual signature of a read-only mapping
    # A copy keeps what the constructor does not take, such as a defaultdict's factory.
    rebuilt = copy.copy(data)
    for key, item in items.items():
        rebuilt[key] = item
    return rebuilt
