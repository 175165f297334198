"""Samplers whose order depends on a seed and the epoch's number alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import RandomSampler, Sampler


class SeedableRandomSampler(Sampler[int]):
    """A ``RandomSampler`` that draws each epoch's order from ``seed`` and the epoch's number.

    Args:
        sampler: whose kind of draw it is.
        seed: 0 or more, the same on all ranks.
    """

    def __init__(self, sampler: RandomSampler, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self._source: Any = sampler.data_source
        self._replacement = sampler.replacement
        self._num_samples = sampler.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of ``epoch``."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Give the order."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(
            RandomSampler(
                self._source, replacement=self._replacement, num_samples=self._num_samples, generator=generator
            )
        )

    def __len__(self) -> int:
        """Give the number of samples."""
        return self._num_samples
