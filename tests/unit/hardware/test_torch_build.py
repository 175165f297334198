from __future__ import annotations

import sys
from pathlib import Path

import pytest

from notebook_accel.hardware.torch_build import TorchBuild

VERSION_FILE = """
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda!r}
hip: Optional[str] = {hip!r}
xpu: Optional[str] = None
"""


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "kind"),
    [
        ("2.10.0+cu128", "12.8", None, "CUDA 12.8"),
        ("2.9.0+cpu", None, None, "CPU only"),
        ("2.9.0+rocm6.4", None, "6.4.43484", "ROCm 6.4.43484"),
    ],
)
def test_an_installed_build_is_read_from_its_files(
    tmp_path: Path, version: str, cuda: str | None, hip: str | None, kind: str
):
    (tmp_path / "version.py").write_text(VERSION_FILE.format(version=version, cuda=cuda, hip=hip))
    build = TorchBuild.read(tmp_path)
    assert build == TorchBuild(version=version, cuda=cuda, hip=hip)
    assert build.kind == kind


@pytest.mark.parametrize("text", [None, "def", "\0", "version = 3"])
def test_what_cannot_be_read_is_no_build(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "version.py").write_text(text)
    assert TorchBuild.read(tmp_path) == TorchBuild()


def test_a_torch_that_cannot_be_imported_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert TorchBuild.read() == TorchBuild()


@pytest.mark.parametrize(
    ("version", "cuda", "lowest", "highest"),
    [
        ("2.8.0+cu126", "12.6", (5, 0), (9, 9)),
        ("2.10.0+cu126", "12.6", (5, 0), (9, 9)),
        ("2.8.0+cu128", "12.8", (7, 0), (99, 0)),
        ("2.10.0", "12.8", (7, 0), (99, 0)),
        ("2.11.0+cu128", "12.8", (7, 5), (99, 0)),
        ("2.9.0+cu130", "13.0", (7, 5), (99, 0)),
        ("2.15.0+cu132", "13.2", (7, 5), (99, 0)),
    ],
)
def test_capabilities_of_released_builds(version: str, cuda: str, lowest: tuple, highest: tuple):
    assert TorchBuild(version=version, cuda=cuda).kernels() == (lowest, highest)


@pytest.mark.parametrize(
    ("version", "cuda"),
    [("", None), ("2.9.0+cpu", None), ("2.8.0a0+5228986c39.nv25.5", "12.9"), ("2.9.0+gitabc", "12.8")],
)
def test_of_other_builds_nothing_is_known(version: str, cuda: str | None):
    assert TorchBuild(version=version, cuda=cuda).kernels() is None
