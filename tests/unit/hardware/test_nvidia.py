from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from notebook_accel.hardware import nvidia, nvml
from notebook_accel.hardware.gpus import Gpu
from notebook_accel.hardware.inventory import Unavailable
from notebook_accel.hardware.nvidia import Answer
from tests.unit.hardware.drivers import T4_PAIR, USAGE, FakeGpu, FakeNvml, answering, program, sliced_machine

GPUS = (
    Gpu(0, "GPU-aaaa-1", "T4", 2**34, (7, 5)),
    Gpu(1, "GPU-aaab-2", "L4", 2**35, (8, 9)),
    Gpu(2, "GPU-bbbb-3", "A10", 2**36, (8, 6)),
)
SLICED = nvml.list_gpus(sliced_machine())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    def of(gpus: tuple[Gpu, ...] = GPUS, problem: str = "") -> None:
        monkeypatch.setattr(nvidia, "ask", lambda: Answer(gpus, problem))

    return of


@pytest.fixture
def no_memory():
    nvidia.ask.cache_clear()
    yield
    nvidia.ask.cache_clear()


@pytest.mark.parametrize(
    ("visible", "names", "selectors"),
    [
        # Where models differ, CUDA's own numbers may be others than the driver's.
        (None, ["T4", "L4", "A10"], ["GPU-aaaa-1", "GPU-aaab-2", "GPU-bbbb-3"]),
        ("", [], []),
        ("2,0", ["A10", "T4"], ["2", "0"]),
        (" 1 , 2 ", ["L4", "A10"], ["1", "2"]),
        ("GPU-b", ["A10"], ["GPU-b"]),
        ("GPU-aaab-2,0", ["L4", "T4"], ["GPU-aaab-2", "0"]),
        ("GPU-aaa,0", [], []),
        ("1,9,0", ["L4"], ["1"]),
        ("1,-1,0", ["L4"], ["1"]),
        ("1,,0", ["L4"], ["1"]),
        ("none", [], []),
        ("MIG-12ab", ["T4 MIG"], ["MIG-12ab"]),
        ("0,0", [], []),
        ("\u00b2", [], []),
    ],
)
def test_what_cuda_would_show(machine, visible: str | None, names: list[str], selectors: list[str]):
    machine()
    devices, _ = nvidia.devices(visible)
    assert [device.name for device in devices] == names
    assert [device.selector for device in devices] == selectors
    assert [device.index for device in devices] == list(range(len(names)))
    assert {device.kind for device in devices} <= {"cuda"}


def test_gpus_of_one_model_are_chosen_by_number(machine):
    machine(tuple(replace(gpu, name="T4") for gpu in GPUS))
    assert [device.selector for device in nvidia.devices(None)[0]] == ["0", "1", "2"]


def test_facts_are_the_chosen_gpus(machine):
    machine()
    devices, _ = nvidia.devices("2,0")
    assert [device.memory_total_bytes for device in devices] == [2**36, 2**34]
    assert [device.compute_capability for device in devices] == [(8, 6), (7, 5)]
    assert [device.uuid for device in devices] == ["GPU-bbbb-3", "GPU-aaaa-1"]


@pytest.mark.parametrize(
    ("gpus", "visible", "chosen"),
    [
        (SLICED, None, [("GPU-a100-1", "GPU-a100-1")]),
        (SLICED, "1", [("1", "GPU-a100-1")]),
        (SLICED, "MIG-bbbb-2", [("MIG-bbbb-2", "MIG-bbbb-2")]),
        (SLICED, "MIG-b", [("MIG-b", "MIG-bbbb-2")]),
        (SLICED, "MIG-bbbb-2,MIG-aaaa-1", [("MIG-bbbb-2", "MIG-bbbb-2")]),
        (SLICED, "MIG-", []),
        (SLICED, "MIG-cccc", []),
        (SLICED, "0", [("0", "MIG-aaaa-1")]),
        (SLICED, "GPU-a100-0", [("GPU-a100-0", "MIG-aaaa-1")]),
        (SLICED[:1], None, [("MIG-aaaa-1", "MIG-aaaa-1")]),
        ((replace(SLICED[0], slices=()),), None, []),
        ((replace(SLICED[0], slices=()),), "0", []),
        ((replace(SLICED[0], slices=()),), "GPU-a", []),
    ],
)
def test_a_process_sees_one_slice_or_whole_gpus(machine, gpus: tuple[Gpu, ...], visible: str | None, chosen: list):
    machine(gpus)
    assert [(device.selector, device.uuid) for device in nvidia.devices(visible)[0]] == chosen


def test_a_slice_has_its_own_name_and_memory(machine):
    machine(SLICED)
    ((device,), _) = nvidia.devices("MIG-bbbb-2")
    assert (device.name, device.memory_total_bytes) == ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * 2**30)


@pytest.mark.parametrize(
    ("gpus", "visible", "reasons"),
    [
        (GPUS, None, []),
        (GPUS, "1", ["CUDA_VISIBLE_DEVICES='1' hides it"] * 2),
        (SLICED, None, ["CUDA shows a process either whole GPUs or one MIG slice; CUDA_VISIBLE_DEVICES chooses"]),
        ((replace(SLICED[0], slices=()),), None, ["it is in MIG mode and has no slice"]),
    ],
)
def test_why_a_gpu_is_not_seen(machine, gpus: tuple[Gpu, ...], visible: str | None, reasons: list[str]):
    machine(gpus)
    assert [row.reason for row in nvidia.devices(visible)[1]] == reasons


@pytest.mark.parametrize("visible", [None, "", "0", "GPU-a", "MIG-1"])
def test_a_machine_without_gpus(machine, visible: str | None):
    machine(())
    assert nvidia.devices(visible) == ((), ())
    machine((), "nvidia-smi failed")
    assert nvidia.devices(visible) == ((), (Unavailable(name="NVIDIA GPUs", reason="nvidia-smi failed"),))


def test_the_program_is_asked_where_there_is_no_library(
    monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path
):
    answering(tmp_path, compute_cap=T4_PAIR, utilization=USAGE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert [gpu.name for gpu in nvidia.ask().gpus] == ["Tesla T4", "Tesla T4"]
    assert nvidia.read_loads(["GPU-6f3c1d5e-0001"])["GPU-6f3c1d5e-0001"].busy_percent == 97


def test_the_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path):
    program(tmp_path, f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho '0, GPU-1, T4, 3'\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.ask() == nvidia.ask()
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_the_library_is_preferred_and_replaced_where_it_fails(
    monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path
):
    program(tmp_path, "#!/bin/sh\necho '0, GPU-1, T4, 3'\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    library = FakeNvml([FakeGpu("GPU-1", "L4", busy=7)])
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert [gpu.name for gpu in nvidia.ask().gpus] == ["L4"]
    assert nvidia.read_loads(["GPU-1"])["GPU-1"].busy_percent == 7
    nvidia.ask.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: 1 / 0))
    assert [gpu.name for gpu in nvidia.ask().gpus] == ["T4"]


class NVMLError_LibraryNotFound(Exception):  # noqa: N801, N818 - what the library calls it
    """There is no driver."""


def raising(error: Exception) -> SimpleNamespace:
    def init() -> None:
        raise error

    return SimpleNamespace(nvmlInit=init)


@pytest.mark.parametrize(
    ("library", "smi", "problem"),
    [
        (None, None, ""),
        (raising(NVMLError_LibraryNotFound()), None, ""),
        (
            None,
            "#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n",
            "nvidia-smi failed (exit code 9): NVIDIA-SMI has failed",
        ),
        (
            raising(RuntimeError("driver/library version mismatch")),
            None,
            "NVML: driver/library version mismatch; there is no nvidia-smi",
        ),
    ],
    ids=["nothing hints at one", "no driver", "a broken driver", "a driver that does not fit"],
)
def test_why_nobody_can_say(
    monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path, library, smi: str | None, problem: str
):
    if smi is not None:
        program(tmp_path, smi)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert nvidia.ask() == Answer((), problem)
    assert nvidia.read_loads(["GPU-1"]) == {}


@pytest.mark.parametrize("text", [str, bytes])
def test_the_drivers_version_is_asked_of_the_library_then_of_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: type
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.driver_version() == ""
    answering(tmp_path, driver_version="535.9\n535.9\n")
    assert nvidia.driver_version() == "535.9"
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([], text))
    assert nvidia.driver_version() == "550.1"
