"""How ranks tell each other what became of their part of a save."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from typing import Any

import torch.distributed as dist

from notebook_accel.backends.base import Backend
from notebook_accel.errors import CheckpointError
from notebook_accel.world import World

_POLL_SECONDS = 0.02
_LONGEST_SECONDS = 1800.0


class Agreement(ABC):
    """Lets every rank know what every rank says."""

    @abstractmethod
    def gather(self, said: Any) -> list[Any]:
        """Give what every rank says, by rank. Collective: all ranks must call this.

        Args:
            said: plain data.
        """


class ByCollective(Agreement):
    """By the collectives that training uses, in the thread that trains.

    Args:
        backend: the connection to the other ranks.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def gather(self, said: Any) -> list[Any]:
        """Give what every rank says, by rank. Collective: all ranks must call this."""
        return self._backend.gather_object(said)


class ByStore(Agreement):
    """By word left in the ranks' store, beside the collectives of training.

    Args:
        store: what all ranks can reach; None where there is one rank.
        world: this process's place in the run.
        name: of what is agreed on, the same on all ranks and used once.
    """

    def __init__(self, store: dist.Store | None, world: World, name: str) -> None:
        self._store = store
        self._world = world
        self._name = name
        self._round = 0

    def gather(self, said: Any) -> list[Any]:
        """Give what every rank says, by rank. Collective: all ranks must call this."""
        if self._store is None:
            return [said]
        self._round += 1
        keys = [f"{self._name}/{self._round}/{rank}" for rank in range(self._world.world_size)]
        self._store.set(keys[self._world.rank], json.dumps(said))
        give_up_at = time.monotonic() + _LONGEST_SECONDS
        while not self._store.check(keys):  # to wait would keep the training thread from the store
            if time.monotonic() > give_up_at:
                what = f"rank {self._world.rank}: the other ranks have not written their parts of {self._name}"
                raise CheckpointError(what, "look for a rank that has ended or hangs")
            time.sleep(_POLL_SECONDS)
        return [json.loads(self._store.get(key)) for key in keys]
