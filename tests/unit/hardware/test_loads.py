from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from notebook_accel.hardware.inventory import Device, DeviceProcess, Inventory, Load
from notebook_accel.hardware.loads import CpuReader, read_loads


def gpu(uuid: str) -> Device:
    return Device(kind="cuda", index=0, name="T4", selector="0", uuid=uuid)


def test_each_device_gets_an_answer_in_its_place():
    asked: list[list[str]] = []

    def read(uuids: list[str]) -> dict[str, Load]:
        asked.append(list(uuids))
        return {"GPU-2": Load(busy_percent=5)}

    found = read_loads([gpu("GPU-1"), gpu(""), gpu("GPU-2")], read)
    assert found == (Load(), Load(), Load(busy_percent=5))
    assert asked == [["GPU-1", "GPU-2"]]
    assert read_loads(Inventory.fake(tpus=2).devices, read) == (Load(), Load())
    assert len(asked) == 1, "nobody is asked about what has no name"


def test_processes_are_named():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = [os.getpid(), child.pid, 1, 2**30]
        load = Load(processes=tuple(DeviceProcess(pid=pid) for pid in pids))
        (found,) = read_loads([gpu("GPU-1")], lambda uuids: {"GPU-1": load})
    finally:
        child.communicate(b"\n")
    assert [process.is_own for process in found.processes] == [True, True, False, False]
    assert found.processes[2].name
    assert found.processes[3].name == ""


def test_how_busy_the_cpu_is():
    reader = CpuReader()
    assert reader.read().busy_percent is None
    sum(i * i for i in range(3_000_000))
    assert 0 < reader.read().busy_percent <= 100


def test_a_clock_that_did_not_move_says_nothing(monkeypatch: pytest.MonkeyPatch):
    same = psutil.cpu_times()
    monkeypatch.setattr(psutil, "cpu_times", lambda: same)
    reader = CpuReader()
    assert reader.read() == reader.read()
