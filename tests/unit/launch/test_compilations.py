from __future__ import annotations

import os
from pathlib import Path

import pytest

from notebook_accel.launch import compilations


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path))
    return tmp_path


def write(name: str, size: int, age_seconds: int) -> Path:
    file = compilations.folder_of_this_version() / "rank0" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    os.utime(file, (1_000_000 - age_seconds,) * 2)
    return file


def test_the_oldest_programs_go_first():
    old, middle, new = write("old", 100, 30), write("middle", 100, 20), write("new", 100, 10)
    assert compilations.bound(300) == 0
    assert compilations.bound(150) == 200
    assert [file.exists() for file in (old, middle, new)] == [False, False, True]


def test_all_are_removed_on_request(home: Path):
    write("one", 7, 0)
    assert compilations.clear_compilation_cache() == 7
    assert compilations.clear_compilation_cache() == 0
    assert list(home.iterdir()) == []


def test_each_version_has_a_folder(home: Path):
    assert compilations.folder_of_this_version().parent == home / "compilations"
    assert compilations.folder_of_this_version().name.startswith("torch_xla-")


def test_a_file_that_goes_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch):
    file, gone = write("one", 7, 0), write("gone", 9, 0)
    listed = Path.lstat

    def vanishing(path: Path) -> os.stat_result:
        if path == gone:
            gone.unlink()
        return listed(path)

    monkeypatch.setattr(Path, "lstat", vanishing)
    assert compilations.bound(3) == 7
    assert not file.exists()
