"""What ranks use: their processes' share of the processor and memory, and what somebody says of their devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psutil

from notebook_accel.hardware.inventory import Device

from .events import Reading

DeviceReadings = Callable[[Sequence[Device]], Sequence[Reading]]  # one for each device, in their order


def totals_only(devices: Sequence[Device]) -> list[Reading]:
    """Give what is known of devices without asking them: how much memory they have."""
    return [Reading(memory_total_bytes=device.memory_total_bytes or None) for device in devices]


class RankReadings:
    """Measures what each rank uses: its device where it has one, its process otherwise.

    Args:
        devices: one for each rank, or none.
        read_devices: asks the devices.
    """

    def __init__(self, devices: Sequence[Device], read_devices: DeviceReadings = totals_only) -> None:
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
