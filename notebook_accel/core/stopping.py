"""What one rank knows and all have to act on: that the run should end, or that something has happened."""

from __future__ import annotations

from collections.abc import Callable

import torch

from notebook_accel.backends.base import Backend


class StopRequest:
    """The request to end, as all ranks see it.

    The ranks learn of it at different moments. One that stopped on its own would leave the others waiting for it in
    their next collective, so they all stop as soon as one of them has been asked.

    Args:
        asked: whether this rank was asked; None where nobody can ask.
        backend: the connection to the other ranks.
    """

    def __init__(self, asked: Callable[[], bool] | None, backend: Backend) -> None:
        self._asked = asked
        self._backend = backend
        self._agreed = False

    def is_agreed(self) -> bool:
        """Give whether any rank has been asked; stays True. Collective: all ranks must call this."""
        if self._asked is not None and not self._agreed:  # both are the same on all ranks
            asked = torch.tensor(int(self._asked()), dtype=torch.int32)
            self._agreed = bool(self._backend.all_reduce(asked, "max").item())
        return self._agreed


class Trigger:
    """A flag that any rank may set and that all ranks see.

    Args:
        backend: the connection to the other ranks.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._is_set = False

    def set(self) -> None:
        """Set it on this rank."""
        self._is_set = True

    def check(self) -> bool:
        """Give whether any rank has set it, and take it back. Collective: all ranks must call this."""
        mine, self._is_set = torch.tensor(int(self._is_set), dtype=torch.int32), False
        return bool(self._backend.all_reduce(mine, "max").item())
