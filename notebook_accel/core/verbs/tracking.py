"""Verbs that tell whoever watches how the training goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from notebook_accel.core.kit import Kit
from notebook_accel.core.logged import plain


class Tracking:
    """Verbs about metrics and the end of the run."""

    _kit: Kit

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Hand values to the notebook: ``result.metrics`` has what rank 0 logged, ``.of_rank(r)`` any rank's.

        Args:
            values: by name; tensors become numbers, which waits for the device.
            step: of the training.

        Example:
            >>> from notebook_accel import Accelerator
            >>> Accelerator().log({"loss": 0.5}, step=1)
        """
        self._kit.runtime.log(plain(values), step)

    @property
    def should_stop(self) -> bool:
        """Whether the run was asked to end by itself, with ``Run.request_stop``; the same on all ranks at each step.

        Collective: all ranks must read it, equally often. Several ranks exchange a number each time, so read it where
        you can afford that: at the end of an epoch, or every few steps. Always False in a script, and with
        ``start_method="inline"``, where the cell is busy with the function and nobody can ask.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True)
            >>> for epoch in range(2):
            ...     if accelerator.should_stop:
            ...         break
            ...     print(f"epoch {epoch}")
            epoch 0
            epoch 1
        """
        return self._kit.stop_request.is_agreed()
