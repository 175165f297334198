"""Where a loader is: which epoch, how many batches were handed out, and from which random state the epoch began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from notebook_accel.errors import ConfigError


class Position:
    """Where a loader is on this rank.

    Args:
        generators: other generators than torch's own that the loader draws from.

    Attributes:
        epoch: 0-based number of the epoch that is read, or that is read next.
        batches: how many batches of it were handed out; 0 between epochs.
        skip: how many batches the next pass leaves out.
    """

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        self.epoch = 0
        self.batches = 0
        self.skip = 0
        self._generators = generators
        self._begun_from: list[Tensor] | None = None
        self._resumes_from: list[Tensor] | None = None

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Put the first draws of an epoch into this block.

        They are made from the present state of the generators, which is kept; in an epoch that is gone on with, from
        the state that it began from, and torch's own generator goes on as if they had not been made again.
        """
        resumed, self._resumes_from = self._resumes_from, None
        if resumed is None:
            self._begun_from = self._states()
            yield
            return
        self._begun_from = resumed
        own = torch.get_rng_state()
        torch.set_rng_state(resumed[0])
        for generator, state in zip(self._generators, resumed[1:], strict=True):
            generator.set_state(state)
        try:
            yield
        finally:
            torch.set_rng_state(own)

    def end(self) -> None:
        """Note that the epoch has been read to its end."""
        self.epoch += 1
        self.batches = 0
        self._begun_from = None

    def leave(self) -> None:
        """Note that the epoch was left: the next pass is a new one."""
        if self._begun_from is not None:
            self.end()

    def state_dict(self) -> dict[str, Any]:
        """Give the position as plain data and tensors.

        Within an epoch it has the state that its order was drawn from; between epochs only the epoch's number.
        """
        began = self._begun_from if self.batches else None
        return {"epoch": self.epoch, "batches": self.batches, "generators": began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a position over: the next pass goes on from there.

        Args:
            state: of ``state_dict``.

        Raises:
            ConfigError: it is of a loader with other generators.
        """
        began = state["generators"]
        if began is not None and len(began) != 1 + len(self._generators):
            what = f"the position is of a loader with {len(began) - 1} generators, this one has {len(self._generators)}"
            raise ConfigError(what, "build the loader as it was when the position was saved")
        self.epoch, self.batches = int(state["epoch"]), int(state["batches"])
        self.skip = self.batches
        self._begun_from = self._resumes_from = None if began is None else [tensor.clone() for tensor in began]

    def _states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(generator.get_state() for generator in self._generators)]
