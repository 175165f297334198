from __future__ import annotations

import os
from pathlib import Path

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.widgets import remembered
from notebook_accel.widgets.remembered import Remembered

CHOICE = RunConfig(devices=(1, 3), seed=4)


def test_each_notebook_has_its_own_choice(tmp_path: Path):
    one, other = Remembered("a/x.ipynb", tmp_path / "p"), Remembered("b/x.ipynb", tmp_path / "p")
    assert one.load() is None
    one.save(CHOICE)
    assert one.load() == Remembered("a/x.ipynb", tmp_path / "p").load() == CHOICE
    assert other.load() is None
    (file,) = (tmp_path / "p").iterdir()
    assert file.name.startswith("x-")
    assert file.suffix == ".yaml"


@pytest.mark.parametrize("name", ["../../etc/x.ipynb", "a b/über.ipynb", "x" * 300 + ".ipynb", "...", "a\nb"])
def test_any_name_of_a_notebook_is_a_file_in_the_folder(tmp_path: Path, name: str):
    Remembered(name, tmp_path).save(CHOICE)
    assert [file.parent for file in tmp_path.rglob("*.yaml")] == [tmp_path]
    assert Remembered(name, tmp_path).load() == CHOICE


def test_of_an_unknown_notebook_nothing_is_kept(tmp_path: Path):
    Remembered(None, tmp_path).save(CHOICE)
    assert list(tmp_path.iterdir()) == []
    assert Remembered.nowhere().load() is None


def test_a_file_that_makes_no_sense_and_a_folder_that_cannot_be_are_no_choice(tmp_path: Path):
    Remembered("x", tmp_path).save(CHOICE)
    (file,) = tmp_path.iterdir()
    file.write_text("num_procesess: 3\n")
    assert Remembered("x", tmp_path).load() is None
    blocked = Remembered("x", file / "below")
    blocked.save(CHOICE)
    assert blocked.load() is None


def test_old_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remembered, "_MOST_FILES", 3)
    for number in range(5):
        kept = Remembered(f"{number}.ipynb", tmp_path)
        kept.save(CHOICE)
        for file in tmp_path.glob(f"{number}-*"):
            os.utime(file, (number, number))
    assert sorted(file.name[0] for file in tmp_path.iterdir()) == ["2", "3", "4"]


def test_the_choice_of_this_kernel_lies_in_the_home_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "work/book.ipynb")
    Remembered.here().save(CHOICE)
    assert [file.parent for file in tmp_path.rglob("book-*.yaml")] == [tmp_path / "picker"]
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert Remembered.here().load() is None
