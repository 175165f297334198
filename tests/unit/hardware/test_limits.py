from __future__ import annotations

import re
from dataclasses import replace

import pytest

from notebook_accel.hardware.inventory import Device, DeviceProcess, Inventory, Load
from notebook_accel.hardware.limits import warning, why_not_in, why_unusable
from notebook_accel.hardware.torch_build import TorchBuild

CURRENT = TorchBuild(version="2.10.0+cu128", cuda="12.8")
OLD = TorchBuild(version="2.10.0+cu126", cuda="12.6")
SOMEBODY = Load(processes=(DeviceProcess(pid=7, name="python"), DeviceProcess(pid=8)))
OWN = Load(processes=(DeviceProcess(pid=7, is_own=True), DeviceProcess(pid=8, is_own=True)))


def gpu(model: str = "A100", **facts: object) -> Device:
    return replace(Inventory.fake(gpus=[model]).devices[0], **facts)


@pytest.mark.parametrize(
    ("device", "torch", "load", "reason"),
    [
        (gpu(), CURRENT, Load(), ""),
        (
            gpu("P100"),
            CURRENT,
            Load(),
            r"torch 2\.10\.0\+cu128 has no kernels for its compute capability 6\.0, only from 7\.0 on",
        ),
        (gpu("P100"), OLD, Load(), ""),
        (gpu("V100"), CURRENT, Load(), ""),
        (
            gpu("V100"),
            TorchBuild(version="2.11.0", cuda="12.8"),
            Load(),
            "torch 2.11.0 has no kernels for its .*7.5 on",
        ),
        (gpu("RTX PRO 6000"), OLD, Load(), "no kernels for its compute capability 12.0, only up to 9.x: install"),
        (gpu(), TorchBuild(version="2.9.0+cpu"), Load(), "torch 2.9.0.cpu is built for CPU only, not for CUDA"),
        (gpu(), TorchBuild(version="2.9.0+rocm6.4", hip="6.4"), Load(), "built for ROCm 6.4 only, not for CUDA"),
        (gpu(), TorchBuild(), Load(), ""),
        (gpu(compute_capability=None), CURRENT, Load(), ""),
        (gpu(compute_mode="prohibited"), CURRENT, Load(), "no process may compute on it"),
        (gpu(compute_mode="exclusive"), CURRENT, Load(), ""),
        (
            gpu(compute_mode="exclusive"),
            CURRENT,
            SOMEBODY,
            r"one process use it, and python \(7\), a process \(8\) does",
        ),
        (gpu(compute_mode="exclusive"), CURRENT, OWN, "one process use it, and this notebook does"),
        (Device(kind="mps", index=0, name="Apple GPU", selector="0"), TorchBuild(version="2.9.0"), Load(), ""),
    ],
)
def test_devices_that_cannot_be_used(device: Device, torch: TorchBuild, load: Load, reason: str):
    said = why_unusable(device, torch, load)
    assert re.search(reason, said), said
    assert bool(said) == bool(reason)


def test_a_full_gpu_is_warned_of():
    machine = Inventory.fake(gpus=2, full=[1])
    free, full = (warning(*pair) for pair in zip(machine.devices, machine.loads, strict=True))
    assert free == ""
    assert full == "its memory is taken, by python (4321): 0.3 of 16 GiB are free"
    assert warning(gpu(), Load()) == ""
    unknown = Load(memory_used_bytes=40 << 30, memory_total_bytes=40 << 30)
    assert "by somebody else: 0.0 of 40 GiB" in warning(gpu(), unknown)


@pytest.mark.parametrize(
    ("model", "precision", "possible"),
    [
        ("T4", "bf16", False),
        ("T4", "fp16", True),
        ("V100", "bf16", False),
        ("A100", "bf16", True),
        ("L4", "bf16", True),
        ("P100", "no", True),
    ],
)
def test_bfloat16_begins_at_capability_8(model: str, precision: str, possible: bool):
    reason = why_not_in(precision, gpu(model))
    assert (reason == "") is possible
    assert possible or "has no bfloat16 of its own" in reason
