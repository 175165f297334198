from __future__ import annotations

import os
import sys
import tempfile

import pytest

from notebook_accel.launch import interpreter


def run(function: str, arguments: str = "", **variables: str) -> tuple[int, str]:
    with tempfile.TemporaryFile() as log:
        process = interpreter.start(function, arguments, (), log, variables)
        return process.wait(60), interpreter.said(log)


def test_the_path_has_no_relative_entries(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/elsewhere"])
    assert interpreter.search_path() == (str(tmp_path), "/elsewhere")


def test_what_cannot_be_imported_is_said():
    code, said = run("no_such_module.main")
    assert code == 1
    assert said.endswith("ModuleNotFoundError: No module named 'notebook_accel.worker.no_such_module'")


def test_silence_is_said():
    with tempfile.TemporaryFile() as log:
        assert interpreter.said(log) == "it said nothing"
        log.write(b"\n".join(b"line %d" % number for number in range(50)) + b"\n\n\xff")
        log.flush()
        assert interpreter.said(log).splitlines()[-2:] == ["", "\ufffd"]
        assert len(interpreter.said(log).splitlines()) == 12


def test_the_notebooks_folder_shadows_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "pickle.py").write_text("raise ImportError('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    code, said = run("no_such_module.main")
    assert (code, "shadowed" in said) == (1, False)


def test_it_has_its_variables_descriptors_and_a_session_of_its_own():
    pytest.importorskip("torch")
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as log:
        # ``execed.os.write`` is a function of the worker's package as good as any.
        arguments = (
            f"{write_end}, repr((m.os.environ['MINE'], m.os.getcwd(), m.os.getsid(0) == m.os.getpid())).encode()"
        )
        process = interpreter.start("execed.os.write", arguments, (write_end,), log, {"MINE": "a value"})
        os.close(write_end)
        assert process.wait(60) == 0, interpreter.said(log)
    with open(read_end) as file:
        assert file.read() == "('a value', '/', True)"
