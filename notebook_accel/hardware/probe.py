"""Look at the machine."""

from __future__ import annotations

import platform
import sys

from notebook_accel import environment
from notebook_accel.hardware import cpu, nvidia, tpu
from notebook_accel.hardware.inventory import Device, Inventory


def probe() -> Inventory:
    """Find what a launch can use, as this process sees it; never raises.

    Example:
        >>> probe().cpu_cores >= 1
        True
    """
    devices = tpu.devices(environment.tpu_process_bounds()) or nvidia.visible_devices(
        environment.visible_cuda_devices()
    )
    if not devices and sys.platform == "darwin" and platform.machine() == "arm64":
        devices = (Device(kind="mps", index=0, name="Apple GPU", selector="0"),)
    rehearsal = () if devices else tpu.rehearsal(environment.pjrt_device())
    return Inventory(cpu_cores=cpu.available_cores(), devices=devices, rehearsal=rehearsal)
