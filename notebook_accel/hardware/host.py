"""The machine beside its accelerators: cores, memory, and the memory that processes share."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from notebook_accel.hardware.memory import MemoryState

_LITTLE_SHARED_BYTES = 1 << 30  # DataLoader workers pass batches through it; Docker gives 64 MiB unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Host:
    """What this process may use of the machine at the moment; None for what the system does not tell.

    Attributes:
        installed_cores: cores of the machine, of which this process may get fewer.
        memory_total_bytes: the machine's memory, or the container's limit where that is less.
        memory_available_bytes: what of it can still be taken.
        memory_limit_bytes: the container's limit.
        shared_memory_total_bytes: size of the file system in memory.
        shared_memory_free_bytes: what of it is free.
    """

    installed_cores: int | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_limit_bytes: int | None = None
    shared_memory_total_bytes: int | None = None
    shared_memory_free_bytes: int | None = None

    @staticmethod
    def read(root: Path = Path("/")) -> Host:
        """Look now.

        Args:
            root: where the system's files lie; the size of the machine's memory is always the real one.
        """
        group = MemoryState.read(root)
        machine = psutil.virtual_memory()
        total, available = machine.total, machine.available
        if group.limit_bytes is not None:
            total = min(total, group.limit_bytes)
            available = min(available, max(0, group.limit_bytes - (group.used_bytes or 0)))
        shared_total, shared_free = _shared_memory(root / "dev/shm")
        return Host(
            installed_cores=os.cpu_count(),
            memory_total_bytes=total,
            memory_available_bytes=available,
            memory_limit_bytes=group.limit_bytes,
            shared_memory_total_bytes=shared_total,
            shared_memory_free_bytes=shared_free,
        )

    @property
    def warning(self) -> str:
        """What may make a run fail for want of room; empty where nothing does."""
        free = self.shared_memory_free_bytes
        if free is None or free >= _LITTLE_SHARED_BYTES:
            return ""
        return (
            f"only {free / 2**20:.0f} MiB of shared memory are free: DataLoader workers with large batches may die of "
            "a bus error (num_workers=0 needs none; in Docker: --shm-size)"
        )


def _shared_memory(folder: Path) -> tuple[int | None, int | None]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None, None
    return usage.total, usage.free
