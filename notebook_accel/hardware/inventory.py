"""The devices of a machine as plain values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from notebook_accel.hardware.host import Host
from notebook_accel.hardware.platforms import Platform
from notebook_accel.hardware.torch_build import TorchBuild
from notebook_accel.world import DeviceKind

ComputeMode = Literal["shared", "exclusive", "prohibited"]

_GIB = 2**30
# Name, memory and compute capability of models that people meet. Source: https://developer.nvidia.com/cuda-gpus
_MODELS = {
    "Made-up GPU": ("Made-up GPU", 16, (8, 0)),
    "P100": ("Tesla P100-PCIE-16GB", 16, (6, 0)),
    "V100": ("Tesla V100-SXM2-16GB", 16, (7, 0)),
    "T4": ("Tesla T4", 15, (7, 5)),
    "A100": ("NVIDIA A100-SXM4-40GB", 40, (8, 0)),
    "L4": ("NVIDIA L4", 22, (8, 9)),
    "H100": ("NVIDIA H100 80GB HBM3", 80, (9, 0)),
    "RTX PRO 6000": ("NVIDIA RTX PRO 6000 Blackwell", 96, (12, 0)),
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator.

    Attributes:
        kind: "cuda", "mps", or for a TPU chip "xla" (driven by torch_xla) or "tpu" (by torch_tpu).
        index: its number as this process sees it.
        name: its model.
        selector: what CUDA_VISIBLE_DEVICES must hold to choose it; for other kinds, a name that no other device has.
        memory_total_bytes: its memory, 0 where unknown.
        uuid: what the driver calls it, "" where it is called nothing.
        compute_capability: of an NVIDIA GPU, None where unknown.
        compute_mode: how many processes may use it: any number, one, or none.
    """

    kind: DeviceKind
    index: int
    name: str
    selector: str
    memory_total_bytes: int = 0
    uuid: str = ""
    compute_capability: tuple[int, int] | None = None
    compute_mode: ComputeMode = "shared"


@dataclass(frozen=True, kw_only=True)
class DeviceProcess:
    """A process that computes on a device.

    Attributes:
        pid: its number, as the driver knows it.
        name: of its program, "" where nobody can say.
        memory_bytes: what it holds on the device, None where the driver does not say.
        is_own: whether this notebook has started it.
    """

    pid: int
    name: str = ""
    memory_bytes: int | None = None
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a device does at one moment; None for what nobody can say.

    Attributes:
        busy_percent: how much of the time it computed lately.
        memory_used_bytes: what of its memory is taken.
        memory_total_bytes: how much there is.
        processes: that compute on it.
    """

    busy_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: tuple[DeviceProcess, ...] = ()

    @property
    def memory_free_bytes(self) -> int | None:
        """What of its memory is free."""
        if self.memory_total_bytes is None or self.memory_used_bytes is None:
            return None
        return self.memory_total_bytes - self.memory_used_bytes


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """Something that was found or looked for, and cannot be used.

    Attributes:
        name: what it is.
        reason: why not.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a launch can use.

    Attributes:
        cpu_cores: cores that this process may use (affinity and container limits applied).
        devices: accelerators, in the order of their numbers.
        rehearsal: what stands in for accelerators where that is asked for by name.
        unavailable: devices that cannot be used, and probes that failed, each with the reason.
        host: the machine's memory.
        platform: where the notebook runs.
        torch: which PyTorch is installed.
        loads: what each device does, where the inventory is made up; ``loads.read_loads`` looks at real devices.

    Example:
        >>> len(Inventory.fake(gpus=4).devices)
        4
    """

    cpu_cores: int
    devices: tuple[Device, ...] = ()
    rehearsal: tuple[Device, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()
    host: Host = field(default_factory=Host)
    platform: Platform = field(default_factory=Platform)
    torch: TorchBuild = field(default_factory=TorchBuild)
    loads: tuple[Load, ...] = ()

    @classmethod
    def fake(
        cls,
        *,
        gpus: int | Sequence[str] = 0,
        cpu_cores: int = 4,
        tpus: int = 0,
        full: Collection[int] = (),
        exclusive: Collection[int] = (),
        platform: Platform | None = None,
        torch: TorchBuild | None = None,
    ) -> Inventory:
        """Make up a machine, to see what a launch would do there.

        Args:
            gpus: how many, or their models: "P100", "V100", "T4", "A100", "L4", "H100", "RTX PRO 6000".
            cpu_cores: of the CPU.
            tpus: chips of TPU v5e; such a machine has no GPUs.
            full: numbers of GPUs whose memory somebody else has taken.
            exclusive: numbers of GPUs that one process may use, and somebody does.
            platform: where it is.
            torch: which PyTorch is installed; one for CUDA 12.8 if left out.

        Example:
            >>> [device.name for device in Inventory.fake(gpus=["T4", "P100"]).devices]
            ['Tesla T4', 'Tesla P100-PCIE-16GB']
        """
        models = ["Made-up GPU"] * gpus if isinstance(gpus, int) else list(gpus)
        devices = [_made_up(i, model, i in exclusive) for i, model in enumerate(models)]
        chips = [
            Device(kind="xla", index=i, name="TPU v5e", selector=f"tpu{i}", memory_total_bytes=16 * _GIB)
            for i in range(tpus)
        ]
        taken = {*full, *exclusive}
        return cls(
            cpu_cores=cpu_cores,
            devices=tuple(chips or devices),
            host=Host(
                installed_cores=cpu_cores,
                memory_total_bytes=32 * _GIB,
                memory_available_bytes=24 * _GIB,
                shared_memory_total_bytes=16 * _GIB,
                shared_memory_free_bytes=16 * _GIB,
            ),
            platform=platform or Platform(detail="made up"),
            torch=torch or TorchBuild(version="2.10.0", cuda="12.8"),
            loads=tuple(Load() for _ in chips) or tuple(_made_up_load(d, d.index in taken) for d in devices),
        )


def _made_up(index: int, model: str, is_exclusive: bool) -> Device:
    name, gibibytes, capability = _MODELS[model]
    return Device(
        kind="cuda",
        index=index,
        name=name,
        selector=str(index),
        memory_total_bytes=gibibytes * _GIB,
        compute_capability=capability,
        compute_mode="exclusive" if is_exclusive else "shared",
    )


def _made_up_load(device: Device, is_taken: bool) -> Load:
    total = device.memory_total_bytes
    used = total - total // 50 if is_taken else total // 100
    process = DeviceProcess(pid=4321, name="python", memory_bytes=used)
    return Load(
        busy_percent=97.0 if is_taken else 0.0,
        memory_used_bytes=used,
        memory_total_bytes=total,
        processes=(process,) if is_taken else (),
    )
