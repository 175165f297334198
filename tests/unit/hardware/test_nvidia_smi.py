from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.hardware import nvidia_smi
from notebook_accel.hardware.gpus import Gpu, Slice
from notebook_accel.hardware.inventory import DeviceProcess, Load
from tests.unit.hardware.drivers import SLICED_LIST, T4_PAIR, USAGE, USERS, answering, program

MIB = 2**20
PAIR = (
    Gpu(0, "GPU-6f3c1d5e-0001", "Tesla T4", 15360 * MIB, (7, 5)),
    Gpu(1, "GPU-6f3c1d5e-0002", "Tesla T4", 15360 * MIB, (7, 5), "exclusive"),
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ()),
        ("No devices were found\n", ()),
        (T4_PAIR, PAIR),
        ("0, GPU-1, Tesla T4, 15360\n", (Gpu(0, "GPU-1", "Tesla T4", 15360 * MIB),)),
        ("0, GPU-1, Odd One, [N/A], [N/A], [N/A], [N/A]\n", (Gpu(0, "GPU-1", "Odd One", 0),)),
        ("x, GPU-1, T4, 1\n1, GPU-2, L4, 2\n0, GPU-3\n", (Gpu(1, "GPU-2", "L4", 2 * MIB),)),
        (
            "0, GPU-1, A100, 9, 8.0, Prohibited, Enabled",
            (Gpu(0, "GPU-1", "A100", 9 * MIB, (8, 0), "prohibited", True),),
        ),
    ],
)
def test_rows_of_gpus(answer: str, expected: tuple[Gpu, ...]):
    assert nvidia_smi.parse_gpus(answer) == expected


def test_the_list_of_slices():
    assert nvidia_smi.parse_slices(SLICED_LIST) == {
        "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77": (
            Slice("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "3g.20gb", 20 << 30),
            Slice("MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", "1g.5gb", 5 << 30),
        )
    }
    assert nvidia_smi.parse_slices("  MIG 1g.5gb Device 0: (UUID: MIG-1)\nnonsense\n") == {}


def test_rows_of_loads():
    found = nvidia_smi.parse_loads(USAGE, USERS)
    assert found["GPU-6f3c1d5e-0001"] == Load(
        busy_percent=97,
        memory_used_bytes=14000 * MIB,
        memory_total_bytes=15360 * MIB,
        processes=(
            DeviceProcess(pid=4321, name="python3", memory_bytes=13990 * MIB),
            DeviceProcess(pid=99999999),
        ),
    )
    assert found["GPU-6f3c1d5e-0002"].memory_free_bytes == 15357 * MIB
    assert found["GPU-odd"] == Load()


def test_the_program_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    answering(tmp_path, compute_cap=T4_PAIR, utilization=USAGE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi.list_gpus() == PAIR
    loads = nvidia_smi.read_loads(["GPU-6f3c1d5e-0002"])
    assert loads == {
        "GPU-6f3c1d5e-0002": Load(busy_percent=0, memory_used_bytes=3 * MIB, memory_total_bytes=15360 * MIB)
    }


def test_a_program_that_knows_less_is_asked_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    refused = "*compute_cap*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2;;"
    program(tmp_path, f"#!/bin/sh\ncase \"$*\" in {refused} *) echo '0, GPU-1, T4, 3';; esac\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi.list_gpus() == (Gpu(0, "GPU-1", "T4", 3 * MIB),)


def test_slices_are_asked_for_where_there_are_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    row = "0, GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77, A100, 40960, 8.0, Default, Enabled\n"
    answering(tmp_path, compute_cap=row, _list=SLICED_LIST)
    monkeypatch.setenv("PATH", str(tmp_path))
    (gpu,) = nvidia_smi.list_gpus()
    assert [part.name for part in gpu.slices] == ["3g.20gb", "1g.5gb"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n", r"failed \(exit code 9\): NVIDIA-SMI has failed"),
        ("#!/bin/sh\nexit 3\n", r"failed \(exit code 3\)$"),
        ("#!/no/such/interpreter\n", "cannot be started"),
        ("\x7fnot a program", "cannot be started"),
        (None, "there is no nvidia-smi"),
    ],
)
def test_why_the_program_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, reason: str
):
    if text is not None:
        program(tmp_path, text)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(nvidia_smi.SmiError, match=reason):
        nvidia_smi.list_gpus()


def test_a_program_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia_smi, "_TIMEOUT_SECONDS", 0.2)
    program(tmp_path, "#!/bin/sh\nwhile :; do :; done\n")
    with pytest.raises(nvidia_smi.SmiError, match=r"did not answer within 0\.2 s"):
        nvidia_smi.list_gpus()
