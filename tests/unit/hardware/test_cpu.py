from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from notebook_accel.hardware import cpu

V1_QUOTA, V1_PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "300000 100000\n"}, 3),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "25000 50000"}, 1),
        ({"cpu.max": ""}, 8),
        ({"cpu.max": "many 100000"}, 8),
        ({"cpu.max": "1 2 3"}, 8),
        ({V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, 8),
        ({V1_QUOTA: "150000\n", V1_PERIOD: "100000\n"}, 2),
        ({V1_QUOTA: "150000\n"}, 8),
        ({V1_QUOTA: "x", V1_PERIOD: "100000\n"}, 8),
        ({"cpu.max": "200000 100000", V1_QUOTA: "100000", V1_PERIOD: "100000"}, 2),
    ],
    ids=str,
)
def test_the_containers_quota_bounds_the_cores(eight_cores: None, tmp_path: Path, files: dict[str, str], cores: int):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu.available_cores(tmp_path) == cores


def test_affinity_bounds_the_cores(tmp_path: Path):
    code = f"""
import os, pathlib
from notebook_accel.hardware.cpu import available_cores
nowhere = pathlib.Path({str(tmp_path)!r})
before = available_cores(nowhere)
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
print(before, available_cores(nowhere))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0))), "1"]


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int | None, cores: int):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert cpu.available_cores(tmp_path) == cores
