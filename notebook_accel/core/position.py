"""Where a loader is: which epoch, how many batches were handed out, and from which random state the epoch began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from notebook_accel.core.seeding import seed_from
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
        self._is_open = False
        self._resumes = False
        self._is_taken_over = False
        self._drawn_from: list[Tensor] | None = None
        self._to_draw_from: list[Tensor] | None = None

    @contextmanager
    def begin(self, *, workers_stay: bool) -> Iterator[None]:
        """Put the start of a pass into this block: a new epoch, or the rest of one that is gone on with.

        In the latter torch's generator goes on as if nothing was drawn: what starts the epoch was drawn before.

        Args:
            workers_stay: workers live on from epoch to epoch. Only the first one draws a seed for them, so an epoch
                after it draws none either when it is begun by a loader that has taken a position over.
        """
        if not self._resumes:
            self.leave()
        if self._is_taken_over and workers_stay and self.epoch and not self._resumes:
            self._to_draw_from = self._states()
        self._is_taken_over = False
        resumes, self._resumes, self._is_open = self._resumes, False, True
        self.batches, self.skip = self.skip, 0
        own = torch.get_rng_state() if resumes else None
        try:
            yield
        finally:
            if own is not None:
                torch.set_rng_state(own)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Put the draw of the epoch's order into this block, which notes what it is drawn from, or draws it anew."""
        states, self._to_draw_from = self._to_draw_from, None
        if states is not None:
            torch.set_rng_state(states[0])
            for generator, state in zip(self._generators, states[1:], strict=True):
                generator.set_state(state)
        self._drawn_from = self._states()
        yield

    def seed(self) -> int:
        """Give a number that the epoch and the state its order was drawn from tell, the same after a resume."""
        return seed_from(self._drawn_from or (), self.epoch)

    def _states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(generator.get_state() for generator in self._generators)]

    def end(self) -> None:
        """Note that the epoch has been read to its end."""
        self.epoch += 1
        self.batches = 0
        self._is_open, self._drawn_from = False, None

    def leave(self) -> None:
        """Note that an epoch which was begun is not gone on with: the next pass is another one."""
        if self._is_open:
            self.end()

    def state_dict(self) -> dict[str, Any]:
        """Give the position as plain data and tensors.

        Within an epoch it has the state that its order was drawn from; between epochs only the epoch's number.
        """
        return {
            "epoch": self.epoch,
            "batches": self.batches,
            "generators": self._drawn_from if self.batches else None,
        }

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
        self._resumes = self._is_open = self.batches > 0
        self._is_taken_over = True
        self._drawn_from = self._to_draw_from = None if began is None else [tensor.clone() for tensor in began]
