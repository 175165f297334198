"""Tensors of a model that are one and the same, such as tied weights: they are kept once and restored as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def aliases(state: Mapping[str, Any]) -> dict[str, str]:
    """Give the names whose tensor is another name's, with that other name, the first of them in alphabetical order.

    Args:
        state: tensors by name; what is no tensor has no alias.

    Example:
        >>> import torch
        >>> weight = torch.ones(2)
        >>> aliases({"b": weight, "a": weight, "c": weight[:1]})
        {'b': 'a'}
    """
    first: dict[Any, str] = {}
    found = {}
    for name in sorted(state):
        tensor = state[name]
        if not isinstance(tensor, Tensor) or not tensor.numel() or not tensor.data_ptr():
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        kept = first.setdefault(place, name)
        if kept != name:
            found[name] = kept
    return found


def distinct(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give the same without the names whose tensor another name has.

    Args:
        state: tensors by name.
    """
    twice = aliases(state)
    return {name: tensor for name, tensor in state.items() if name not in twice}


def tied_names(model: nn.Module) -> list[list[str]]:
    """Give the names of each parameter that has several.

    Args:
        model: any model.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def tie(model: nn.Module, groups: Iterable[list[str]]) -> None:
    """Let the names of each group be one parameter again, that of the first.

    Args:
        model: whose parameters are meant.
        groups: of ``tied_names``.
    """
    for first, *others in groups:
        parameter = model.get_parameter(first)
        for name in others:
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, parameter)
