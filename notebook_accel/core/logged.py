"""Values that are logged, as plain Python: whoever reads them needs no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.tree import leaves, map_tree

_PLAIN = (bool, int, float, str)
_MOST_NUMBERS = 1 << 16
_MOST_WAITING = 8


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give numbers and texts for what they are, tensors and arrays as numbers or lists, and the rest in words.

    Args:
        values: by name; a tensor on a device is waited for.

    Example:
        >>> plain({"loss": torch.tensor(0.5), "note": "first"})
        {'loss': 0.5, 'note': 'first'}
    """
    return {str(name): _plain(value) for name, value in values.items()}


def _plain(value: object) -> Any:
    if value is None or type(value) in _PLAIN:
        return value
    for kind in _PLAIN:
        if isinstance(value, kind):
            return kind(value)  # also where its own class is one that the notebook may not have
    if isinstance(value, torch.Tensor):
        return value.detach().tolist() if value.numel() <= _MOST_NUMBERS else f"a tensor of {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    to_numbers = getattr(value, "tolist", None)  # an array's, or a NumPy number's
    return to_numbers() if callable(to_numbers) and getattr(value, "size", 0) <= _MOST_NUMBERS else repr(value)


class Reports:
    """Logged values on their way to whoever is told; at once, unless reading them would cut a traced step in two.

    Args:
        backend: says whether steps are traced, and how many were run.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._waiting: deque[tuple[int, Any, Callable[[dict[str, Any]], None]]] = deque()

    def add(self, values: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        """Take values in, and tell those whose step has been run.

        Args:
            values: by name.
            tell: called with them in plain form, in the order in which they were logged.
        """
        step = self._backend.steps_run
        if step is None or not (self._waiting or any(_is_on_device(leaf) for _, leaf in leaves(values))):
            tell(plain(values))
            return
        self._waiting.append((step, map_tree(_held, values), tell))
        while self._waiting and (self._waiting[0][0] < step or len(self._waiting) > _MOST_WAITING):
            self._tell_first()

    def finish(self) -> None:
        """Tell everything that waits."""
        while self._waiting:
            self._tell_first()

    def _tell_first(self) -> None:
        _, values, tell = self._waiting.popleft()
        tell(plain(values))


def _is_on_device(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.device.type != "cpu"


def _held(leaf: Any) -> Any:
    """Give what the user cannot change any more."""
    return leaf.detach().clone() if isinstance(leaf, torch.Tensor) and _is_on_device(leaf) else _plain(leaf)
