"""Move a model to a device on which every parameter becomes a new object, and keep what holds the old ones.

``model.to("xla")`` makes new parameters: tied weights come apart, and an optimizer goes on updating the old ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from notebook_accel.errors import ConfigError


class Moves:
    """What became of the parameters that were moved; the old ones are remembered for as long as somebody has them."""

    def __init__(self) -> None:
        self._new: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()

    def move(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Move a model in place; weights that are one object before are one object after it.

        Raises:
            ConfigError: weights that were tied are not any more, and cannot be tied again.
        """
        before = dict(_named(model))
        with _swapping():
            try:
                model.to(device)
            except RuntimeError:  # something else has a reference to a parameter's memory: then a new one is made
                torch.__future__.set_swap_module_params_on_conversion(False)
                model.to(device)
        after = dict(_named(model))
        new_of: dict[int, Tensor] = {}
        for name, old in before.items():
            new = new_of.setdefault(id(old), after.get(name, old))
            if after.get(name) is not new:
                _put(model, name, new)
            if new is not old:
                self._new[old] = new
        apart = _torn(before, dict(_named(model)))
        if apart:
            what = f"weights that are tied are not so any more on {device}: {'; '.join(apart)}"
            raise ConfigError(what, "tie them again after prepare(), and build the optimizer after that")
        return model

    def follow(self, optimizer: Optimizer) -> None:
        """Let an optimizer hold the new parameters in the place of the old ones, with the state that it has of them."""
        for group in optimizer.param_groups:
            for index, parameter in enumerate(group["params"]):
                new = self._new.get(parameter, parameter)
                group["params"][index] = new
                if parameter in optimizer.state:
                    state = optimizer.state.pop(parameter)
                    optimizer.state[new] = {name: _beside(value, new) for name, value in state.items()}


def _beside(value: object, parameter: Tensor) -> object:
    """Bring a tensor of an optimizer's state to its parameter's device; a step count stays where it is."""
    return value.to(parameter.device) if isinstance(value, Tensor) and value.dim() else value


def torn(model: nn.Module) -> list[str]:
    """Name weights that a model of Transformers is meant to share and does not, as after a move by hand.

    Source: https://huggingface.co/docs/transformers/main_classes/model (get_input_embeddings, tie_word_embeddings)
    """
    found = []
    names = {id(parameter): name for name, parameter in _named(model)}
    for module in model.modules():
        if getattr(getattr(module, "config", None), "tie_word_embeddings", None) is not True:
            continue
        first, last = _end(module, "get_input_embeddings"), _end(module, "get_output_embeddings")
        if first is not None and last is not None and first is not last:
            found.append(f"{names.get(id(first), '?')} and {names.get(id(last), '?')}")
    return list(dict.fromkeys(found))


def _end(module: Any, name: str) -> Tensor | None:
    try:
        weight = getattr(getattr(module, name)(), "weight", None)
    except (AttributeError, NotImplementedError):  # it has no such end
        return None
    return weight if isinstance(weight, Tensor) else None


def left_behind(optimizer: Optimizer, device: torch.device) -> list[str]:
    """Name the parameters of an optimizer that are not on ``device``."""
    found = []
    for number, group in enumerate(optimizer.param_groups):
        names = group.get("param_names") or [f"group {number}, parameter {i}" for i in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            if parameter.device.type != device.type:
                found.append(f"{name} {tuple(parameter.shape)}")
    return found


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)


def _put(model: nn.Module, name: str, parameter: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._parameters:  # noqa: SLF001 - a list of parameters takes no other way
        owner._parameters[leaf] = parameter  # type: ignore[assignment]  # noqa: SLF001 - the same


def _torn(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Name the weights that were one object and are not any more."""
    groups: dict[int, list[str]] = {}
    for name, parameter in before.items():
        groups.setdefault(id(parameter), []).append(name)
    return [" and ".join(names) for names in groups.values() if len({id(after.get(name)) for name in names}) > 1]


@contextmanager
def _swapping() -> Iterator[None]:
    """Let ``Module.to`` put new memory into the old objects, where that is possible."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
