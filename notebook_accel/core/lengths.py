"""Few shapes for compilers: batches whose lengths are rounded up to a few."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from notebook_accel.core.tree import with_items
from notebook_accel.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LengthBuckets:
    """The lengths that batches are padded to, so that what compiles for each shape compiles a few times.

    Each rank pads its own batches, in the workers where there are some. Several TPU chips have to run the same program
    at the same time: give one length there, or as many as all ranks reach together.

    Attributes:
        lengths: in increasing order; what is longer than all of them is padded to a multiple of the last.
        fill: what the tensors that are padded are filled up with, by their place in the batch: a key of a mapping, a
            number in a tuple or list, 0 where the batch is a tensor. All others stay as they are.
        dim: which dimension is padded, 0-based; 1 where dimension 0 counts the samples.

    Shapes: of a named tensor ``(B, L, ...) -> (B, the next length, ...)``.

    Raises:
        ConfigError: the lengths do not increase from 1 or more, nothing is named, or ``dim`` is negative.

    Example:
        >>> buckets = LengthBuckets(lengths=(4, 8), fill={"ids": 0, "labels": -100})
        >>> batch = buckets.padded({"ids": torch.ones(2, 5), "labels": torch.ones(2, 5), "weight": torch.ones(2)})
        >>> batch["ids"].shape, batch["labels"][0, -1].item(), batch["weight"].shape
        (torch.Size([2, 8]), -100.0, torch.Size([2]))
    """

    lengths: tuple[int, ...]
    fill: Mapping[Any, float] = field(default_factory=dict)
    dim: int = 1

    def __post_init__(self) -> None:
        """Refuse lengths that do not increase, and a padding of nothing."""
        lengths = tuple(self.lengths)
        if not lengths or any(after <= before for before, after in zip((0, *lengths), lengths, strict=False)):
            raise ConfigError(
                f"lengths is {self.lengths!r}", "give whole numbers that increase, such as (64, 128, 256)"
            )
        if not self.fill:
            hint = 'name what is padded and with what: fill={"input_ids": 0, "attention_mask": 0, "labels": -100}'
            raise ConfigError("LengthBuckets pads nothing: fill is empty", hint)
        if self.dim < 0:
            raise ConfigError(f"dim is {self.dim}", "count from 0: 1 is the dimension after that of the samples")
        object.__setattr__(self, "lengths", lengths)

    def length_for(self, length: int) -> int:
        """Give the length that one is padded to.

        Example:
            >>> [LengthBuckets(lengths=(4, 8), fill={0: 0}).length_for(length) for length in (1, 4, 7, 17)]
            [4, 4, 8, 24]
        """
        last = self.lengths[-1]
        return next((longer for longer in self.lengths if longer >= length), math.ceil(length / last) * last)

    def padded(self, batch: Any) -> Any:
        """Give a batch with its named tensors padded; all of them to the length that the longest of them needs.

        Raises:
            ConfigError: a named place holds no tensor, or one without the dimension.
        """
        places = self._places_in(batch)
        longest = max((tensor.shape[self.dim] for tensor in places.values()), default=0)
        wanted = self.length_for(longest)
        longer = {place: _longer(tensor, self.dim, wanted, self.fill[place]) for place, tensor in places.items()}
        return longer[0] if isinstance(batch, Tensor) else with_items(batch, longer)

    def _places_in(self, batch: Any) -> dict[Any, Tensor]:
        if isinstance(batch, Mapping):
            items: Mapping[Any, Any] = batch
        else:
            items = dict(enumerate(batch if isinstance(batch, (list, tuple)) else [batch]))
        places = {}
        for place in self.fill:
            tensor = items.get(place)
            if not isinstance(tensor, Tensor) or tensor.ndim <= self.dim:
                found = "nothing" if tensor is None else f"{type(tensor).__name__} {list(getattr(tensor, 'shape', []))}"
                what = f"LengthBuckets is to pad {place!r} along dimension {self.dim}, but the batch has {found} there"
                raise ConfigError(what, f"name what the batch holds: {', '.join(map(repr, items))}")
            places[place] = tensor
        return places


@dataclass(frozen=True)
class Padding:
    """A collate function that pads what another one gives, in whichever process it is called."""

    collate: Callable[[Any], Any]
    buckets: LengthBuckets

    def __call__(self, samples: Any) -> Any:
        """Give the padded batch."""
        return self.buckets.padded(self.collate(samples))


def _longer(tensor: Tensor, dim: int, length: int, value: float) -> Tensor:
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_full(shape, value)], dim)
