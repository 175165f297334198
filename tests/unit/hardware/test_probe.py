from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from notebook_accel.hardware import cpu, nvidia, pci, probe, torch_build, tpu
from notebook_accel.hardware.gpus import Gpu
from notebook_accel.hardware.host import Host
from notebook_accel.hardware.inventory import Unavailable
from notebook_accel.hardware.nvidia import Answer


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvidia, "ask", lambda: Answer((Gpu(0, "GPU-1", "T4", 5),)))


@pytest.mark.parametrize(("visible", "names"), [(None, ["T4"]), ("0", ["T4"]), ("", []), ("junk", []), ("9", [])])
def test_the_environment_decides_what_is_seen(
    one_gpu: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = probe.probe()
    assert [device.name for device in found.devices] == names
    assert found.cpu_cores >= 1


@pytest.mark.parametrize(
    ("system", "machine", "kinds"),
    [("darwin", "arm64", ["mps"]), ("darwin", "x86_64", []), ("linux", "arm64", []), ("linux", "x86_64", [])],
)
def test_an_apple_gpu(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, kinds: list[str]):
    monkeypatch.setattr(nvidia, "ask", Answer)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert [device.kind for device in probe.probe().devices] == kinds


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho 'NVIDIA-SMI has failed'\n", "junk"])
def test_a_broken_driver_is_no_reason_to_raise(tmp_path: Path, text: str):
    (tmp_path / "nvidia-smi").write_text(text)
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "pynvml.py").write_text("raise OSError('driver and library do not match')\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from notebook_accel.hardware.probe import probe\n"
    code += "found = probe()\nprint(found.devices, len(found.unavailable), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        command,
        check=False,
        env={"PATH": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("() 1 False\n", "")


def test_what_fails_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: object) -> None:
        raise OSError("the bus is gone")

    places = [
        (tpu, "devices"),
        (nvidia, "devices"),
        (pci, "unusable_gpus"),
        (tpu, "rehearsal"),
        (cpu, "available_cores"),
    ]
    for module, name in places:
        monkeypatch.setattr(module, name, broken)
    monkeypatch.setattr(Host, "read", broken)
    monkeypatch.setattr(probe, "platform_here", broken)
    monkeypatch.setattr(torch_build.TorchBuild, "read", broken)
    found = probe.probe()
    names = ["TPU", "NVIDIA GPUs", "AMD and Intel GPUs", "torch_xla", "CPU", "memory", "platform", "torch"]
    reason = "OSError: the bus is gone"
    assert found.unavailable == tuple(Unavailable(name=name, reason=reason) for name in names)
    assert (found.cpu_cores, found.devices) == (1, ())


def test_this_machine():
    found = probe.probe()
    assert 1 <= found.cpu_cores <= (found.host.installed_cores or 0)
    total = found.host.memory_total_bytes or 0
    assert 0 < total <= psutil.virtual_memory().total
    assert 0 < (found.host.memory_available_bytes or 0) <= total
    torch = pytest.importorskip("torch")
    assert (found.torch.version, found.torch.cuda) == (torch.__version__, torch.version.cuda)
