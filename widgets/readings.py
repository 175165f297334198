"""What ranks use: their processes' share of the processor and memory, and what somebody says of their devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psutil

from notebook_accel.hardware.inventory import Device
from notebook_accel.hardware.loads import read_loads

from .events import Reading

DeviceReadings = Callable[[Sequence[Device]], Sequence[Reading]]  # one for each device, in their order


def of_devices(devices: Sequence[Device]) -> list[Reading]:
    """Ask devices what they do; of one that cannot be asked no more is known than how much memory it has."""
    loads = read_loads(devices)
    return [
        Reading(load.busy_percent, load.memory_used_bytes, load.memory_total_bytes or device.memory_total_bytes or None)
        for device, load in zip(devices, loads, strict=True)
    ]


class RankReadings:
    """Measures what each rank uses: its device where it has one, its process otherwise.

    Args:
        devices: one for each rank, or none.
        read_devices: asks the devices.
    """

    def __init__(self, devices: Sequence[Device], read_devices: DeviceReadings = of_devices) -> None:
        self._devices = devices
        self._read_devices = read_devices
        self._processes: dict[int, psutil.Process] = {}

    def take(self, pids: Mapping[int, int]) -> dict[int, Reading]:
        """Measure now.

        Args:
            pids: the process of each rank that runs.
        """
        if self._devices:
            readings = self._read_devices(self._devices)
            return {rank: readings[rank] for rank in pids if rank < len(readings)}
        found = {rank: self._of_process(pid) for rank, pid in pids.items()}
        return {rank: reading for rank, reading in found.items() if reading is not None}

    def _of_process(self, pid: int) -> Reading | None:
        try:
            known = self._processes.get(pid)
            if known is None:
                self._processes[pid] = known = psutil.Process(pid)
                known.cpu_percent()  # the first answer is about no time at all
                return Reading(memory_bytes=int(known.memory_info().rss))
            with known.oneshot():
                return Reading(known.cpu_percent(), int(known.memory_info().rss))
        except psutil.Error:
            return None  # it has just ended
