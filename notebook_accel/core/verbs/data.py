"""Verbs about what is read, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch.utils.data import DataLoader

from notebook_accel.core import joining
from notebook_accel.core.kit import Kit
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.meter import Metrics, real_rows
from notebook_accel.core.skipping import skip_first_batches


class Data:
    """Verbs about loaders and what they give."""

    _kit: Kit

    @property
    def split_batches(self) -> bool:
        """Whether a loader's batch size is that of the whole run."""
        return self._kit.settings.loaders.split_batches

    @property
    def dispatch_batches(self) -> bool | None:
        """Whether rank 0 reads for all; None where it does so for data that cannot be picked by number."""
        return self._kit.settings.loaders.dispatch_batches

    @property
    def even_batches(self) -> bool:
        """Whether all ranks get the same number of batches."""
        return self._kit.settings.loaders.even_batches

    @property
    def use_seedable_sampler(self) -> bool:
        """Whether shuffled orders depend on a seed and the epoch's number alone."""
        return self._kit.settings.loaders.use_seedable_sampler

    @property
    def non_blocking(self) -> bool:
        """Whether copies to the device are not waited for."""
        return self._kit.settings.loaders.non_blocking

    @property
    def use_stateful_dataloader(self) -> bool:
        """Whether loaders are read by torchdata's; prepared loaders know their position in any case."""
        return self._kit.settings.loaders.use_stateful_dataloader

    def skip_first_batches(self, dataloader: DataLoader[Any], num_batches: int = 0) -> ShardedLoader:
        """Give a loader whose next pass leaves out the first batches; later passes are whole.

        Samples that are left out are not read, where they can be picked by number. A prepared loader keeps its
        settings and its count of epochs.

        Args:
            dataloader: a prepared loader, or any other.
            num_batches: of this rank, 0 or more.

        Raises:
            ConfigError: ``num_batches`` is negative.

        Example:
            >>> from notebook_accel import Accelerator
            >>> loader = DataLoader(range(6), batch_size=2)
            >>> skipped = Accelerator(cpu=True).skip_first_batches(loader, 2)
            >>> [batch.tolist() for batch in skipped], len(list(skipped))
            ([[4, 5]], 3)
        """
        return skip_first_batches(dataloader, num_batches)

    def join_uneven_inputs(
        self, joinables: Sequence[Any], even_batches: bool | None = None
    ) -> AbstractContextManager[None]:
        """Give a block in which ranks may run out of batches at different times, without the others waiting for ever.

        A rank that is done takes part in the others' exchange of gradients until all are. Collective: all ranks must
        enter the block; other collectives in it must be those that all ranks reach.

        Args:
            joinables: the prepared models that are trained.
            even_batches: whether prepared loaders fill ranks up in the block; None leaves them as they are.

        Source: https://docs.pytorch.org/docs/stable/distributed.algorithms.join.html
        """
        return joining.joined(joinables, self._kit, even_batches=even_batches)

    def metrics(self) -> Metrics:
        """Give an empty set of metrics: means over all samples of all ranks, summed up locally, exchanged once.

        Example:
            >>> import torch
            >>> from notebook_accel import Accelerator
            >>> metrics = Accelerator(cpu=True).metrics()
            >>> metrics.update(loss=torch.tensor([1.0, 3.0]))
            >>> metrics.compute()
            {'loss': 2.0}
        """
        return Metrics(self._kit.backend, self._kit.watch)

    def drop_padding(self, data: Any) -> Any:
        """Give the rows of this rank's batch in hand that are not padding; nothing is sent.

        For metrics that add up by themselves over the ranks, such as torchmetrics objects.

        Args:
            data: a nested structure of tensors with the batch's rows.

        Example:
            >>> import torch
            >>> from notebook_accel import Accelerator
            >>> Accelerator(cpu=True).drop_padding(torch.ones(2)).shape
            torch.Size([2])
        """
        return real_rows(data, self._kit.watch, self._kit.backend.world.rank)
