"""Look at the machine."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import TypeVar

from notebook_accel import environment
from notebook_accel.hardware import cpu, nvidia, pci, tpu
from notebook_accel.hardware.host import Host
from notebook_accel.hardware.inventory import Device, Inventory, Unavailable
from notebook_accel.hardware.platforms import Platform, platform_here
from notebook_accel.hardware.torch_build import TorchBuild

T = TypeVar("T")


def probe() -> Inventory:
    """Find what a launch can use, as this process sees it; never raises, and starts no device's runtime.

    A part of it that fails leaves a row in ``unavailable`` that says why.

    Example:
        >>> probe().cpu_cores >= 1
        True
    """
    failed: list[Unavailable] = []

    def tried(name: str, look: Callable[[], T], otherwise: T) -> T:
        try:
            return look()
        except Exception as error:  # noqa: BLE001 - whatever a driver or a system does, the others are still there
            failed.append(Unavailable(name=name, reason=f"{type(error).__name__}: {error}"))
            return otherwise

    no_devices: tuple[Device, ...] = ()
    no_rows: tuple[Unavailable, ...] = ()
    chips = tried("TPU", lambda: tpu.devices(environment.tpu_process_bounds()), no_devices)
    gpus, rows = tried("NVIDIA GPUs", lambda: nvidia.devices(environment.visible_cuda_devices()), (no_devices, no_rows))
    others = tried("AMD and Intel GPUs", pci.unusable_gpus, no_rows)
    devices = chips or gpus or _apple_gpu()
    rehearsal = (
        no_devices if devices else tried("torch_xla", lambda: tpu.rehearsal(environment.pjrt_device()), no_devices)
    )
    return Inventory(
        cpu_cores=tried("CPU", cpu.available_cores, 1),
        devices=devices,
        rehearsal=rehearsal,
        host=tried("memory", Host.read, Host()),
        platform=tried("platform", lambda: platform_here(environment.current()), Platform()),
        torch=tried("torch", TorchBuild.read, TorchBuild()),
        unavailable=(*rows, *others, *failed),
    )


def _apple_gpu() -> tuple[Device, ...]:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return (Device(kind="mps", index=0, name="Apple GPU", selector="0"),)
    return ()
