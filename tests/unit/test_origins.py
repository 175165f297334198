from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_accel import origins


@pytest.mark.parametrize(
    ("file", "users"),
    [
        ("<ipython-input-3-abc>", True),
        ("<cell 1>", True),
        ("/tmp/ipykernel_12/34.py", True),
        ("/data/project/train.py", True),
        (f"{origins._PACKAGE_FOLDER.rstrip('/')}_demo/train.py", True),
        ("<frozen importlib._bootstrap>", False),
        (json.__file__, False),
        (pytest.__file__, False),
        (origins.__file__, False),
        ("/usr/local/lib/python3.11/dist-packages/torch/nn/functional.py", False),
    ],
)
def test_whose_code_it_is(file: str, users: bool):
    assert origins.is_users(file) == users


def test_files_are_called_as_a_reader_knows_them():
    assert origins.short_name(json.__file__) == "json/__init__.py"
    assert origins.short_name(origins.__file__) == "notebook_accel/origins.py"
    assert origins.short_name(str(Path.home() / "model.py")) == "~/model.py"
    assert origins.short_name("/data/model.py") == "/data/model.py"
    assert origins.place("/data/model.py", 3) == "File /data/model.py:3"


class OldCompiler:
    """Names cells by their text, as IPython 7 does, and remembers none."""

    def get_code_name(self, raw: str, _parsed: str, _number: int) -> str:
        return f"/tmp/ipykernel_1/{sum(map(ord, raw))}.py"


class NewCompiler:
    def format_code_name(self, name: str) -> tuple[str, str] | None:
        return ("Cell", "In[4]") if name == "/tmp/ipykernel_1/9.py" else None


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    history = types.SimpleNamespace(input_hist_raw=["", "a", "b", "a"], input_hist_parsed=["", "a", "b", "a"])
    shell = types.SimpleNamespace(compile=OldCompiler(), history_manager=history)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    return shell


def test_a_cell_is_found_by_its_text_the_latest_first(shell):
    name = shell.compile.get_code_name
    assert origins.cell_name(name("a", "", 0)) == "Cell In[3]"
    assert origins.cell_name(name("b\n", "", 0)) == "Cell In[2]", "the history has lost its line end"
    assert origins.cell_name("/tmp/ipykernel_1/0.py") is None
    assert origins.cell_name(__file__) is None


def test_a_shell_that_knows_its_cells_is_asked(shell):
    shell.compile = NewCompiler()
    assert origins.place("/tmp/ipykernel_1/9.py", 5) == "Cell In[4], line 5"
    assert origins.cell_name("/tmp/ipykernel_1/8.py") is None


def test_a_strange_shell_costs_only_the_cells_name(shell):
    shell.compile = None
    assert origins.cell_name("<ipython-input-3-abc>") is None


def test_without_ipython_nothing_is_a_cell(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert origins.shell() is None
    assert origins.cell_name("<ipython-input-3-abc>") is None
    assert "IPython" not in sys.modules
