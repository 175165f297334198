from __future__ import annotations

import sys
from pathlib import Path

import pytest

import notebook_accel
from notebook_accel.cli import report as module
from notebook_accel.cli.report import report
from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.basic_config import default_config_file
from tests.unit.hardware.drivers import FakeNvml


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path))
    return tmp_path


def test_versions_of_what_matters_are_there() -> None:
    lines = report().splitlines()
    assert lines[0] == f"notebook_accel: {notebook_accel.__version__}"
    names = [line.partition(":")[0] for line in lines]
    assert {"Python", "system", "torch", "torch_xla", "accelerate", "ipykernel", "IPython", "jupyterlab"} <= set(names)


def test_devices_come_with_their_memory_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda: Inventory.fake(gpus=["T4", "A100"]))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml([]))
    lines = report().splitlines()
    assert "NVIDIA driver: 550.1" in lines
    assert "GPU 0: Tesla T4, 15.0 GiB, compute capability 7.5" in lines
    assert "torch: 2.10.0 (CUDA 12.8)" in lines


def test_the_settings_are_there_and_the_environment_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "the secret")
    assert "settings: none" in report()
    RunConfig(num_processes=3).save(default_config_file())
    assert "  num_processes: 3" in report().splitlines()
    assert "the secret" not in report()


def test_settings_that_cannot_be_read_do_not_hide_the_rest(home: Path) -> None:
    default_config_file().write_bytes(b"\xff\xfe\x00")
    assert "cannot be read (UnicodeDecodeError)" in report()
