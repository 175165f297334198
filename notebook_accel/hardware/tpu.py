"""TPU chips, found on the PCI bus: no runtime is started, no library loaded, no metadata server asked.

Source: torch_xla 2.9 and torch_tpu 0.2 look for the same identifiers.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from notebook_accel.hardware.inventory import Device
from notebook_accel.world import DeviceKind

_GOOGLE = "0x1ae0"
_GIB = 2**30


@dataclass(frozen=True)
class Generation:
    """A kind of TPU chip.

    Attributes:
        name: what it is called.
        memory_bytes: memory of one chip, 0 where unknown.
        devices_per_process: XLA devices that one process gets with a chip.
    """

    name: str
    memory_bytes: int
    devices_per_process: int = 1


OLD = Generation("TPU v2 or v3", 0, 2)  # the same identifier
GENERATIONS = {
    "0x0027": OLD,
    "0x005e": Generation("TPU v4", 32 * _GIB),
    "0x0062": Generation("TPU v5p", 95 * _GIB),
    "0x0063": Generation("TPU v5e", 16 * _GIB),
    "0x006f": Generation("TPU v6e", 32 * _GIB),
    "0x0076": Generation("TPU v7", 192 * _GIB, 2),
}


def chips(sysfs: Path = Path("/sys")) -> tuple[Generation, ...]:
    """List the machine's TPU chips.

    Args:
        sysfs: where the system shows its devices.
    """
    found = []
    for vendor in sorted(sysfs.glob("bus/pci/devices/*/vendor")):
        if _text(vendor) == _GOOGLE:
            generation = GENERATIONS.get(_text(vendor.with_name("device")))
            if generation is not None:
                found.append(generation)
    return tuple(found)


def device_kind() -> DeviceKind:
    """Give what kind of device a chip is, by what is installed to drive it; nothing is imported.

    Where torch_xla is installed, or nothing, a chip is torch_xla's; torch_tpu's only where it is alone.
    """
    found = importlib.util.find_spec
    return "tpu" if found("torch_xla") is None and found("torch_tpu") is not None else "xla"


def devices(process_bounds: str | None = None, sysfs: Path = Path("/sys")) -> tuple[Device, ...]:
    """Give one device for each process that the runtime starts, or can use.

    Args:
        process_bounds: TPU_PROCESS_BOUNDS, which bounds their number, None where unset.
        sysfs: where the system shows its devices.
    """
    found = chips(sysfs)
    count = min(len(found), _product(process_bounds) or len(found))
    kind = device_kind()
    return tuple(
        Device(kind=kind, index=i, name=chip.name, selector=f"tpu{i}", memory_total_bytes=chip.memory_bytes)
        for i, chip in enumerate(found[:count])
    )


def rehearsal(pjrt_device: str | None) -> tuple[Device, ...]:
    """Give the CPU as torch_xla sees it, where PJRT_DEVICE asks for that and torch_xla is installed.

    Args:
        pjrt_device: PJRT_DEVICE, None where unset.
    """
    if pjrt_device != "CPU" or importlib.util.find_spec("torch_xla") is None:
        return ()
    return (Device(kind="xla", index=0, name="XLA on the CPU, no TPU", selector="pjrt-cpu"),)


def summary(sysfs: Path = Path("/sys")) -> str:
    """Say what chips there are.

    Example:
        >>> summary(Path("/nowhere"))
        'no TPU chip'
    """
    counts = Counter(chip.name for chip in chips(sysfs))
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no TPU chip"


def _product(bounds: str | None) -> int | None:
    parts = [part.strip() for part in (bounds or "").split(",")]
    return math.prod(map(int, parts)) if all(part.isdecimal() for part in parts) else None


def _text(file: Path) -> str:
    try:
        return file.read_text().strip().lower()
    except OSError:
        return ""
