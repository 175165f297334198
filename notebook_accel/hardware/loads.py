"""How busy devices are at the moment, and with whose work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import psutil

from notebook_accel.hardware import nvidia
from notebook_accel.hardware.inventory import Device, DeviceProcess, Load

Reader = Callable[[Sequence[str]], dict[str, Load]]


def read_loads(devices: Sequence[Device], read: Reader = nvidia.read_loads) -> tuple[Load, ...]:
    """Look at devices now; never raises. Each gets an answer, in their order, an empty one where nobody can say.

    Args:
        devices: of which to say it.
        read: asks the driver about GPUs by their identifiers.

    Example:
        >>> read_loads([])
        ()
    """
    wanted = [device.uuid for device in devices if device.uuid]
    found = read(wanted) if wanted else {}
    own = _own_processes() if any(load.processes for load in found.values()) else frozenset()
    return tuple(_named(found.get(device.uuid, Load()), own) for device in devices)


def _own_processes() -> frozenset[int]:
    """Give this process and what it has started."""
    try:
        return frozenset({os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))})
    except psutil.Error:
        return frozenset({os.getpid()})


def _named(load: Load, own: Iterable[int]) -> Load:
    return replace(load, processes=tuple(_described(process, own) for process in load.processes))


def _described(process: DeviceProcess, own: Iterable[int]) -> DeviceProcess:
    """Add a process's name; in a container the driver's numbers are those of the machine, which nobody there knows."""
    if process.pid in own:
        return replace(process, name="this notebook", is_own=True)
    try:
        return replace(process, name=process.name or psutil.Process(process.pid).name())
    except psutil.Error:
        return process


@dataclass(frozen=True)
class CpuLoad:
    """How busy the CPU is.

    Attributes:
        busy_percent: of all cores since the last look; None at the first.
    """

    busy_percent: float | None = None


class CpuReader:
    """Measures how busy the machine's cores are between two looks."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def read(self) -> CpuLoad:
        """Look now."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # A guest's time is counted in the user's already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        before, self._before = self._before, (total, idle)
        if before is None or total <= before[0]:
            return CpuLoad()
        busy = 1 - (idle - before[1]) / (total - before[0])
        return CpuLoad(100 * min(1.0, max(0.0, busy)))
