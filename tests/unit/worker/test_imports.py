from __future__ import annotations

import importlib
import importlib.resources
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from notebook_accel.worker.imports import when_imported


@pytest.fixture(autouse=True)
def finders() -> Iterator[None]:
    before, modules = list(sys.meta_path), set(sys.modules)
    yield
    sys.meta_path[:] = before
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    package = tmp_path / "awaited_package"
    package.mkdir()
    (package / "__init__.py").write_text("from awaited_package.inner import value\n")
    (package / "inner.py").write_text("value = 1\nif value == 2: raise ValueError\n")
    (package / "data.txt").write_text("text")
    monkeypatch.syspath_prepend(tmp_path)
    return "awaited_package"


def test_an_imported_module_is_acted_on_at_once():
    seen: list[object] = []
    before = list(sys.meta_path)
    when_imported({"json": seen.append})
    assert seen == [sys.modules["json"]]
    assert sys.meta_path == before


def test_a_module_is_acted_on_before_anybody_reads_from_it(module: str):
    when_imported({f"{module}.inner": lambda inner: setattr(inner, "value", 2)})
    assert importlib.import_module(module).value == 2
    inner = sys.modules[f"{module}.inner"]
    assert inner.__spec__.loader is inner.__loader__
    assert type(inner.__loader__).__name__ == "SourceFileLoader"


def test_its_files_are_found_and_it_can_be_loaded_again(module: str):
    when_imported({module: lambda _: None})
    package = importlib.import_module(module)
    assert importlib.resources.files(package).joinpath("data.txt").read_text() == "text"
    assert importlib.reload(package) is package


def test_a_module_that_does_not_exist_stays_unknown():
    when_imported({"no_such_module_anywhere": pytest.fail})
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")
