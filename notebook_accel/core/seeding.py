"""What is drawn in workers for a batch: by a seed that goes with the batch's numbers."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

_SEEDS = 2**63
_NUMPY_SEEDS = 2**32


class SeededBatch:
    """The numbers of a batch on their way to a worker, whose generators are seeded when they arrive.

    A worker reads a batch right after it has received its numbers, so that nothing else is drawn between.

    Args:
        numbers: of a batch's samples, or of a single sample.
        seed: 0 or more.
    """

    __slots__ = ("numbers", "seed")

    def __init__(self, numbers: Any, seed: int) -> None:
        self.numbers = numbers
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        """Arrive as plain numbers."""
        return _arrived, (self.numbers, self.seed)


def seeded(batches: Iterable[Any], first_seed: int, step: int) -> Iterator[SeededBatch]:
    """Give every batch a seed of its own.

    Args:
        batches: lists of numbers.
        first_seed: 0 or more.
        step: how far the seeds lie apart.
    """
    seed = first_seed
    for numbers in batches:
        yield SeededBatch(numbers, seed % _SEEDS)
        seed += step


def seed_from(states: Iterable[Tensor], epoch: int) -> int:
    """Give a seed that depends on generators' states and an epoch's number; nothing is drawn."""
    digest = hashlib.blake2b(epoch.to_bytes(8, "little"), digest_size=8)
    for state in states:
        digest.update(bytes(state.tolist()))
    return int.from_bytes(digest.digest(), "little") % _SEEDS


def _arrived(numbers: Any, seed: int) -> Any:
    random.seed(seed)
    # Not torch.manual_seed: it notes the seed for devices that no worker uses, once more with each batch.
    torch.default_generator.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % _NUMPY_SEEDS)
    return numbers
