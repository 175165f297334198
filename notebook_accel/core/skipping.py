"""Going on in the middle of an epoch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.loader import LoaderOptions, ShardedLoader
from notebook_accel.core.stateful import made_loader
from notebook_accel.errors import ConfigError
from notebook_accel.world import World


def skip_first_batches(dataloader: DataLoader[Any], num_batches: int = 0) -> ShardedLoader:
    """Give a loader whose next pass leaves out the first batches; later passes are whole.

    Args:
        dataloader: a prepared loader, or any other.
        num_batches: of this rank, 0 or more.

    Raises:
        ConfigError: ``num_batches`` is negative.

    Example:
        >>> [batch.tolist() for batch in skip_first_batches(DataLoader(range(3)), 1)]
        [[1], [2]]
    """
    if num_batches < 0:
        raise ConfigError(f"num_batches is {num_batches}", "use 0 or more")
    if not isinstance(dataloader, ShardedLoader):
        dataloader = made_loader(dataloader, SingleBackend(World()), EpochWatch(), LoaderOptions())
    return dataloader.skipping(num_batches)
