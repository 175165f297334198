"""Bytes from every process to every other through the run's store: for objects and counts, beside the devices.

Nothing is traced, compiled or moved to a device for it.
"""

from __future__ import annotations

from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore

from notebook_accel.world import World

_PATIENCE = timedelta(minutes=30)  # for a rank that comes later than the others


class HostExchange:
    """One process's end.

    Args:
        world: this process's place in the run.
        store: where all can read and write; None where the process is alone.
    """

    def __init__(self, world: World, store: Store | None) -> None:
        self._world = world
        self._store = store
        self._round = 0

    @classmethod
    def of_run(cls, world: World, patience: timedelta | None = None) -> HostExchange:
        """Connect to the store that the launcher serves.

        Args:
            world: this process's place in the run.
            patience: how long to wait for a rank that comes later than the others; None for half an hour.
        """
        if world.world_size == 1:
            return cls(world, None)
        store = TCPStore(
            world.master_addr,
            world.master_port,
            None,
            is_master=False,
            timeout=patience or _PATIENCE,
            wait_for_workers=False,
        )
        return cls(world, PrefixStore("notebook_accel/exchange", store))

    def gather(self, mine: bytes) -> list[bytes]:
        """Give every process's bytes, by rank. Collective: all ranks must call this."""
        if self._store is None:
            return [mine]
        self._round += 1
        self._store.set(self._key(self._round), mine)  # type: ignore[arg-type]  # the stub forgets bytes
        ranks = range(self._world.world_size)
        found = [mine if rank == self._world.rank else self._read(rank) for rank in ranks]
        if self._round > 1:  # all have begun this round, so all have read what was said in the one before
            self._store.delete_key(self._key(self._round - 1))
        return found

    def _read(self, rank: int) -> bytes:
        assert self._store is not None
        return bytes(self._store.get(f"{self._round}/{rank}"))

    def _key(self, number: int) -> str:
        return f"{number}/{self._world.rank}"
