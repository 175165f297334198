from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from notebook_accel.hardware.host import Host
from tests.unit.hardware.test_memory import system


def test_a_containers_limit_bounds_the_memory(tmp_path: Path):
    root = system(
        tmp_path,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memoryDOTmax=f"{64 << 20}\n",
        sys__fs__cgroup__memoryDOTcurrent=f"{24 << 20}\n",
    )
    host = Host.read(root)
    assert host.memory_total_bytes == host.memory_limit_bytes == 64 << 20
    assert host.memory_available_bytes == 40 << 20
    assert host.shared_memory_total_bytes is None


def test_a_machine_without_a_limit_has_its_memory(tmp_path: Path):
    host = Host.read(tmp_path)
    assert host.memory_limit_bytes is None
    assert host.memory_total_bytes == psutil.virtual_memory().total


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="a system without such a folder")
def test_shared_memory_is_the_systems():
    host = Host.read()
    assert host.shared_memory_total_bytes == shutil.disk_usage("/dev/shm").total
    assert 0 <= host.shared_memory_free_bytes <= host.shared_memory_total_bytes


@pytest.mark.parametrize(("free", "said"), [(None, ""), (64 << 20, "only 64 MiB of shared memory"), (8 << 30, "")])
def test_little_shared_memory_is_said(free: int | None, said: str):
    warning = Host(shared_memory_free_bytes=free).warning
    assert warning.startswith(said)
    assert bool(warning) == bool(said)
