"""Weights spread over files of a limited size, and the index that says which lies where."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from notebook_accel.core.weights.sharing import by_memory
from notebook_accel.errors import ConfigError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Shards:
    """How weights are spread over files.

    Attributes:
        files: the names of the weights in each file, by its name.
        total_bytes: of all weights.
    """

    files: Mapping[str, Sequence[str]]
    total_bytes: int

    def index(self) -> str:
        """Give the text of the index, as other libraries of the field read it."""
        places = {name: file for file, names in self.files.items() for name in names}
        data = {"metadata": {"total_size": self.total_bytes}, "weight_map": places}
        return json.dumps(data, indent=2, sort_keys=True) + "\n"


def bytes_of(size: int | str) -> int:
    """Give a size in bytes.

    Args:
        size: bytes, or a number with KB, MB, GB or TB (powers of 1000), or KiB, MiB, GiB or TiB (powers of 1024).

    Raises:
        ConfigError: it is no size.

    Example:
        >>> bytes_of("10GB"), bytes_of("1KiB")
        (10000000000, 1024)
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"max_shard_size is {size!r}, which is no size", 'give bytes, or a text such as "5GB"')
    return int(float(match[1]) * (1024 if match[3] else 1000) ** _POWERS[match[2].upper()])


def spread(state: Mapping[str, Any], largest_bytes: int, *, safe: bool) -> Shards:
    """Spread weights over files, in their order and as other libraries of the field do.

    Args:
        state: weights by name; in the safetensors format each tensor once.
        largest_bytes: of a file, unless a single tensor is larger: that has one of its own.
        safe: name them as files in the safetensors format.

    Example:
        >>> import torch
        >>> spread({"a": torch.zeros(2), "b": torch.zeros(9), "c": torch.zeros(1)}, 16, safe=True).files
        {'model-00001-of-00002.safetensors': ['b'], 'model-00002-of-00002.safetensors': ['a', 'c']}
    """
    stem, ending = ("model", "safetensors") if safe else ("pytorch_model", "bin")
    blocks = [[name] for name in state] if safe else by_memory(state)
    files: list[list[str]] = []
    filling: list[str] = []
    filled = total = 0
    for block in blocks:
        size = _bytes_of_block([state[name] for name in block], safe=safe)
        total += size
        if size > largest_bytes:
            files.append(block)
            continue
        if filled + size > largest_bytes:
            files.append(filling)
            filling, filled = [], 0
        filling.extend(block)
        filled += size
    if filling or not files:
        files.append(filling)
    count = len(files)
    names = [f"{stem}-{number:05d}-of-{count:05d}.{ending}" for number in range(1, count + 1)]
    return Shards(dict(zip(names if count > 1 else [f"{stem}.{ending}"], files, strict=True)), total)


def _bytes_of_block(values: list[Any], *, safe: bool) -> int:
    """Give what tensors of one piece of memory take in a file: torch's own format keeps all of that memory, once."""
    first = values[0]
    if not isinstance(first, Tensor):
        return 0
    whole = 0 if safe or len(values) == 1 else max(value.untyped_storage().nbytes() for value in values)
    return max(whole, first.nbytes)
