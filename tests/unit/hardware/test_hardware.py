from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.hardware import cpu, nvidia, probe
from notebook_accel.hardware.nvidia import Gpu


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch):
    gpus = (Gpu(0, "GPU-aaaa-1", "T4", 2**34), Gpu(1, "GPU-aaab-2", "L4", 2**35))
    monkeypatch.setattr(nvidia, "all_gpus", lambda: gpus)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["T4", "L4"]),
        ("", []),
        ("1", ["L4"]),
        ("1,0", ["L4", "T4"]),
        ("GPU-aaab", ["L4"]),
        ("GPU-aaa", []),
        ("0,7,1", ["T4"]),
        ("-1", []),
        ("MIG-1234", ["T4 (MIG)"]),
    ],
)
def test_visible_devices(two_gpus: None, visible: str | None, names: list[str]):
    devices = nvidia.visible_devices(visible)
    assert [device.name for device in devices] == names
    assert [device.index for device in devices] == list(range(len(names)))


def test_selectors_are_what_cuda_is_told(two_gpus: None):
    assert [device.selector for device in nvidia.visible_devices("GPU-aaab,0")] == ["GPU-aaab", "0"]


def test_rows_of_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-1, Tesla T4, 15360'\necho '1, GPU-2, Odd One, [N/A]'\necho junk\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = (Gpu(0, "GPU-1", "Tesla T4", 15360 * 2**20), Gpu(1, "GPU-2", "Odd One", 0))
    assert nvidia._ask_nvidia_smi() == expected
    program.write_text("#!/bin/sh\nexit 9\n")
    assert nvidia._ask_nvidia_smi() == ()
    program.unlink()
    assert nvidia._ask_nvidia_smi() == ()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_a_containers_quota(tmp_path: Path, files: dict[str, str], cores: float | None):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu._quota_cores(tmp_path) == cores
    if cores is not None:
        assert cpu.available_cores(tmp_path) == min(cpu.available_cores(tmp_path / "none"), max(1, round(cores + 0.1)))


def test_a_probe_sees_this_machine(two_gpus: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = probe.probe()
    assert found.cpu_cores >= 1
    assert [device.name for device in found.devices] == ["T4", "L4"]
