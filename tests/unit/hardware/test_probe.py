from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from notebook_accel.hardware import nvidia, probe
from notebook_accel.hardware.nvidia import Gpu


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvidia, "all_gpus", lambda: (Gpu(0, "GPU-1", "T4", 5),))


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
    monkeypatch.setattr(nvidia, "all_gpus", lambda: ())
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert [device.kind for device in probe.probe().devices] == kinds


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho 'NVIDIA-SMI has failed'\n", "junk"])
def test_a_broken_driver_is_no_reason_to_raise(tmp_path: Path, text: str):
    (tmp_path / "nvidia-smi").write_text(text)
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "pynvml.py").write_text("raise OSError('driver and library do not match')\n")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from notebook_accel.hardware.probe import probe\n"
    code += "print(probe().devices, 'torch' in sys.modules)"
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
    assert (done.stdout, done.stderr) == ("() False\n", "")
