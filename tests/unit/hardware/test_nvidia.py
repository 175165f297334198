from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from notebook_accel.hardware import nvidia
from notebook_accel.hardware.nvidia import Gpu

GPUS = (
    Gpu(0, "GPU-aaaa-1", "T4", 2**34),
    Gpu(1, "GPU-aaab-2", "L4", 2**35),
    Gpu(2, "GPU-bbbb-3", "A10", 2**36),
)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvidia, "all_gpus", lambda: GPUS)


@pytest.fixture
def no_memory():
    nvidia.all_gpus.cache_clear()
    yield
    nvidia.all_gpus.cache_clear()


@pytest.mark.parametrize(
    ("visible", "names", "selectors"),
    [
        (None, ["T4", "L4", "A10"], ["0", "1", "2"]),
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
        ("MIG-12ab", ["T4 (MIG)"], ["MIG-12ab"]),
        ("0,0", [], []),
        ("\u00b2", [], []),
    ],
)
def test_what_cuda_would_show(gpus: None, visible: str | None, names: list[str], selectors: list[str]):
    devices = nvidia.visible_devices(visible)
    assert [device.name for device in devices] == names
    assert [device.selector for device in devices] == selectors
    assert [device.index for device in devices] == list(range(len(names)))
    assert {device.kind for device in devices} <= {"cuda"}


def test_memory_is_the_chosen_gpus(gpus: None):
    assert [device.memory_total_bytes for device in nvidia.visible_devices("2,0")] == [2**36, 2**34]


@pytest.mark.parametrize("visible", [None, "", "0", "GPU-a", "MIG-1"])
def test_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None):
    monkeypatch.setattr(nvidia, "all_gpus", lambda: ())
    assert nvidia.visible_devices(visible) == ()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ()),
        ("No devices were found\n", ()),
        ("0, GPU-1, Tesla T4, 15360\n", (Gpu(0, "GPU-1", "Tesla T4", 15360 * 2**20),)),
        ("0, GPU-1, Odd One, [N/A]\n", (Gpu(0, "GPU-1", "Odd One", 0),)),
        ("x, GPU-1, T4, 1\n1, GPU-2, L4, 2\n0, GPU-3\n", (Gpu(1, "GPU-2", "L4", 2 * 2**20),)),
    ],
)
def test_rows_of_nvidia_smi(answer: str, expected: tuple[Gpu, ...]):
    assert nvidia.parse_nvidia_smi(answer) == expected


def program(folder: Path, text: str) -> None:
    file = folder / "nvidia-smi"
    file.write_text(text)
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "#!/bin/sh\ncase \"$*\" in *index,uuid,name,memory.total*noheader,nounits*) echo '0, GPU-1, T4, 3';; esac",
            (Gpu(0, "GPU-1", "T4", 3 * 2**20),),
        ),
        ("#!/bin/sh\necho '0, GPU-1, T4, 3'; exit 9\n", ()),
        ("#!/no/such/interpreter\n", ()),
        ("\x7fnot a program", ()),
        ("#!/bin/sh\nprintf '0, GPU-1, T\\3774, 3\\n'\n", ()),
    ],
    ids=["answers", "fails", "no interpreter", "no program", "no text"],
)
def test_nvidia_smi_is_asked_where_there_is_no_nvml(
    monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path, text: str, expected: tuple[Gpu, ...]
):
    program(tmp_path, text)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.all_gpus() == expected


def test_the_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path):
    program(tmp_path, f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho '0, GPU-1, T4, 3'\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvidia.all_gpus() == nvidia.all_gpus()
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize("kind", [str, str.encode], ids=["text", "bytes"])
def test_nvml_answers_in_text_or_bytes_and_is_shut_down(kind: type):
    calls: list[str] = []
    nvml = SimpleNamespace(
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda number: kind(f"GPU-{number}"),
        nvmlDeviceGetName=lambda number: kind("T4"),
        nvmlDeviceGetMemoryInfo=lambda number: SimpleNamespace(total=5),
    )
    assert nvidia._ask_nvml(nvml) == (Gpu(0, "GPU-0", "T4", 5), Gpu(1, "GPU-1", "T4", 5))
    nvml.nvmlDeviceGetName = lambda number: 1 / 0
    with pytest.raises(ZeroDivisionError):
        nvidia._ask_nvml(nvml)
    assert calls == ["init", "shutdown"] * 2


def test_an_nvml_that_fails_is_replaced_by_nvidia_smi(monkeypatch: pytest.MonkeyPatch, no_memory: None, tmp_path: Path):
    program(tmp_path, "#!/bin/sh\necho '0, GPU-1, T4, 3'\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: 1 / 0))
    assert [gpu.name for gpu in nvidia.all_gpus()] == ["T4"]
