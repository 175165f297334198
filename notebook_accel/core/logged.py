"""Values that are logged, as plain Python: whoever reads them needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_PLAIN = (bool, int, float, str)
_MOST_NUMBERS = 1 << 16


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
