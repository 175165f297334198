from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from notebook_accel.hardware import probe as probing
from notebook_accel.hardware import tpu
from tests.xla.chips import FAKE_FOLDER, pci_tree


@pytest.mark.parametrize(
    ("identifiers", "names"),
    [
        ((), []),
        (("0x0063",), ["TPU v5e"]),
        (("0x006F", "0x006f"), ["TPU v6e", "TPU v6e"]),
        (("0x0027",), ["TPU v2 or v3"]),
        (("0x1234", "0x0063"), ["TPU v5e"]),
    ],
)
def test_chips_are_found_on_the_bus(tmp_path: Path, identifiers: tuple[str, ...], names: list[str]):
    found = tpu.devices(None, pci_tree(tmp_path, *identifiers))
    assert [device.name for device in found] == names
    assert [device.selector for device in found] == [f"tpu{i}" for i in range(len(names))]
    assert {device.kind for device in found} <= {"xla"}


def test_a_device_of_another_maker_is_none(tmp_path: Path):
    assert tpu.devices(None, pci_tree(tmp_path, "0x0063", vendor="0x10de")) == ()
    assert tpu.devices(None, tmp_path / "nothing") == ()


@pytest.mark.parametrize(
    ("bounds", "count"), [(None, 8), ("2,2,1", 4), ("2,4,1", 8), ("4,4,1", 8), ("1,1,1", 1), ("?", 8)]
)
def test_process_bounds_limit_the_number(tmp_path: Path, bounds: str | None, count: int):
    assert len(tpu.devices(bounds, pci_tree(tmp_path, *["0x0063"] * 8))) == count


@pytest.mark.skipif(importlib.util.find_spec("torch_xla") is not None, reason="torch_xla is installed")
@pytest.mark.parametrize(
    ("installed", "kind"),
    [
        (["torch_xla"], "xla"),
        (["torch_tpu"], "tpu"),
        (["torch_xla", "torch_tpu"], "xla"),
    ],
)
def test_what_drives_the_chips_is_seen_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], kind: str
):
    for name in installed:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    (device,) = tpu.devices(None, pci_tree(tmp_path, "0x0063"))
    assert (device.kind, device.name) == (kind, "TPU v5e")


def test_a_rehearsal_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FAKE_FOLDER)
    assert tpu.rehearsal(None) == tpu.rehearsal("TPU") == ()
    (device,) = tpu.rehearsal("CPU")
    assert (device.kind, device.selector) == ("xla", "pjrt-cpu")
    assert "torch_xla" not in sys.modules


def test_the_probe_prefers_chips_and_keeps_the_rehearsal_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FAKE_FOLDER)
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    found = probing.probe()
    assert found.devices == () or found.devices[0].kind != "xla"
    assert found.devices or [device.selector for device in found.rehearsal] == ["pjrt-cpu"]
