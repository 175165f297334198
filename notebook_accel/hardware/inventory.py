"""The devices of a machine as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from notebook_accel.world import DeviceKind


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator.

    Attributes:
        kind: "cuda", "mps" or "xla" (a TPU chip).
        index: its number as this process sees it.
        name: its model.
        selector: what CUDA_VISIBLE_DEVICES must hold to choose it; for other kinds, a name that no other device has.
        memory_total_bytes: its memory, 0 where unknown.
    """

    kind: DeviceKind
    index: int
    name: str
    selector: str
    memory_total_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a launch can use.

    Attributes:
        cpu_cores: cores that this process may use (affinity and container limits applied).
        devices: accelerators, in the order of their numbers.
        rehearsal: what stands in for accelerators where that is asked for by name.

    Example:
        >>> len(Inventory.fake(gpus=4).devices)
        4
    """

    cpu_cores: int
    devices: tuple[Device, ...] = ()
    rehearsal: tuple[Device, ...] = ()

    @classmethod
    def fake(cls, *, gpus: int = 0, cpu_cores: int = 4) -> Inventory:
        """Make up a machine, to see what a launch would do there."""
        made_up = (
            Device(kind="cuda", index=i, name="Made-up GPU", selector=str(i), memory_total_bytes=16 * 2**30)
            for i in range(gpus)
        )
        return cls(cpu_cores=cpu_cores, devices=tuple(made_up))
