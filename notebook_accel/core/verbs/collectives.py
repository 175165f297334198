"""Verbs that move data between the ranks."""

from __future__ import annotations

from typing import Any

from notebook_accel.backends.base import ReduceOp
from notebook_accel.core import collectives, metrics
from notebook_accel.core.kit import Kit


class Collectives:
    """Verbs that all ranks call together."""

    _kit: Kit

    def gather(self, tensor: Any) -> Any:
        """Join every rank's tensors along the first dimension. Collective: all ranks must call this.

        Shapes are compared between CPU ranks, which costs a few per cent of the exchange; ACCELERATE_DEBUG_MODE=true
        compares on GPUs as well, where the host then waits for them, and ACCELERATE_DEBUG_MODE=false nowhere.

        Args:
            tensor: a tensor or a nested structure of tensors, of the same shapes on all ranks.

        Shapes: ``(B, ...) -> (W * B, ...)``, detached; ``() -> (W,)``.

        Raises:
            ConfigError: a leaf is not a tensor, or shapes or dtypes differ between ranks.
        """
        return collectives.gather(tensor, self._kit.exchange)

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """Gather, without the rows that only filled up a loader's last batch. Collective: all ranks must call this.

        Works on a batch's rows in the loop, and on an epoch's rows after it, before another loader is read. With
        several loaders read in turn, gather a tensor of the batch along, which tells whose rows they are. Scalars
        have no rows and come back one for each rank: for a mean over samples, gather sums and counts, or rows.

        Args:
            input_data: a nested structure of tensors, or a list with one object per row.
            use_gather_object: send the list as picklable objects also when it holds tensors.

        Shapes: ``(B, ...) -> (rows without padding, ...)``; rank 0's rows come first.

        Raises:
            ConfigError: objects that are not in a list, or shapes or dtypes differ between ranks.
        """
        return metrics.gather_for_metrics(input_data, self._kit.exchange, self._kit.watch, as_objects=use_gather_object)

    def reduce(self, tensor: Any, reduction: ReduceOp = "sum", scale: float = 1.0) -> Any:
        """Combine every rank's tensors elementwise into new ones. Collective: all ranks must call this.

        Args:
            tensor: a tensor or a nested structure of tensors, of the same shapes on all ranks.
            reduction: "sum", "mean" or "max".
            scale: what the result is multiplied with.

        Raises:
            ConfigError: a leaf is not a tensor, or shapes or dtypes differ between ranks, or ``reduction`` is unknown.
        """
        return collectives.reduce(tensor, self._kit.exchange, reduction, scale)

    def pad_across_processes(self, tensor: Any, dim: int = 0, pad_index: float = 0, pad_first: bool = False) -> Any:
        """Pad every rank's tensors to the longest rank's. Collective: all ranks must call this.

        Args:
            tensor: a tensor or a nested structure of tensors.
            dim: the dimension that differs between ranks; tensors without it come back unchanged.
            pad_index: what to pad with.
            pad_first: pad before the data instead of after it.

        Raises:
            ConfigError: a leaf is not a tensor, or the number of dimensions or the dtype differs between ranks.
        """
        return collectives.pad_across_processes(
            tensor, self._kit.exchange, dim=dim, pad_index=pad_index, pad_first=pad_first
        )

    def set_trigger(self) -> None:
        """Tell all ranks that something has happened, such as that this one wants to stop.

        They learn of it at their next ``check_trigger``.
        """
        self._kit.trigger.set()

    def check_trigger(self) -> bool:
        """Give whether ``set_trigger`` was called on any rank since this was last asked.

        Collective: all ranks must call this, equally often.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True)
            >>> accelerator.set_trigger()
            >>> accelerator.check_trigger(), accelerator.check_trigger()
            (True, False)
        """
        return self._kit.trigger.check()
