"""Metrics summed up on each rank, and over the ranks once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.operations import find_batch_size
from notebook_accel.core.tree import map_tree
from notebook_accel.errors import ConfigError


def real_rows(data: Any, watch: EpochWatch, rank: int) -> Any:
    """Give the rows of this rank's batch in hand that are not padding.

    Args:
        data: a nested structure of tensors with the batch's rows; what has other numbers of rows stays whole.
        watch: the passes over the loaders.
        rank: this rank.
    """
    its_round = watch.round_of(data)
    if its_round.sizes == its_round.real:
        return data
    size, real = its_round.sizes[rank], its_round.real[rank]
    return map_tree(
        lambda leaf: leaf[:real] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size else leaf, data
    )


class Metrics:
    """Means over all samples of all ranks, each sample once, with one collective at the end.

    Args:
        backend: the connection to the other ranks.
        watch: the passes over the loaders, which know the padding.

    Example:
        >>> from notebook_accel import Accelerator
        >>> metrics = Accelerator(cpu=True).metrics()
        >>> metrics.update(correct=torch.tensor([1, 0, 1, 1]))
        >>> metrics.compute()
        {'correct': 0.75}
    """

    def __init__(self, backend: Backend, watch: EpochWatch) -> None:
        self._backend = backend
        self._watch = watch
        self._sums: dict[str, Tensor] = {}

    def update(self, **rows: Tensor) -> None:
        """Add values of the batch in hand; nothing is sent, and no device is waited for.

        Args:
            rows: by name, a value for each row of the batch; padding is left out.

        Raises:
            ConfigError: a value has no rows, or not those of the others.

        Shapes: ``(B, ...)``; further dimensions are averaged too.
        """
        count = find_batch_size(rows)
        for name, values in rows.items():
            if not values.ndim or len(values) != count:
                what = f"rank {self._backend.world.rank}: metrics.update({name}=...) wants a value for each row"
                raise ConfigError(what, f"compute it with reduction='none', of shape ({count}, ...)")
            real = real_rows(values, self._watch, self._backend.world.rank).detach()
            found = torch.stack([real.sum(dtype=torch.float64), real.new_tensor(real.numel(), dtype=torch.float64)])
            before = self._sums.get(name)
            self._sums[name] = found if before is None else before + found

    def compute(self) -> dict[str, float]:
        """Give the means over all ranks, and begin anew. Collective: all ranks must call this.

        Raises:
            ConfigError: the ranks have values of different names.
        """
        sums, self._sums = self._sums, {}
        every = self._backend.gather_object({name: pair.tolist() for name, pair in sums.items()})
        names = {name for of_rank in every for name in of_rank}
        if any(of_rank and set(of_rank) != names for of_rank in every):
            what = f"the ranks have metrics of different names: {[sorted(of_rank) for of_rank in every]}"
            raise ConfigError(what, "update the same names on every rank")
        totals = {name: [sum(column) for column in zip(*_pairs(every, name), strict=True)] for name in sorted(names)}
        return {name: total / count if count else float("nan") for name, (total, count) in totals.items()}


def _pairs(every: list[dict[str, list[float]]], name: str) -> list[list[float]]:
    return [of_rank[name] for of_rank in every if name in of_rank]
