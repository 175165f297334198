from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.cli.main import main, parser


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "script", "arguments"),
    [
        (["launch", "a.py"], "a.py", []),
        (["launch", "a.py", "--port", "1", "-m", "x"], "a.py", ["--port", "1", "-m", "x"]),
        (["launch", "--port", "2", "a.py", "--", "b", "--help"], "a.py", ["--", "b", "--help"]),
        (["launch", "a.py", "--", "b"], "a.py", ["--", "b"]),
        (["launch", "--port", "2", "-m", "a.b", "--c"], "a.b", ["--c"]),
    ],
)
def test_what_follows_the_script_is_the_scripts(words: list[str], script: str, arguments: list[str]) -> None:
    parsed = parser().parse_args(words)
    assert parsed.script == [script, *arguments]


@pytest.mark.parametrize(
    "words", [[], ["launch"], ["launch", "--multi_gpu", "a.py"], ["launch", "--num-proc", "2", "a.py"], ["lunch"]]
)
def test_a_command_line_that_means_nothing_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: notebook-accel" in capsys.readouterr().err


def test_bad_input_is_an_error_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--mixed-precision", "half", "missing.py"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("notebook_accel: unknown mixed_precision 'half'\n  -> ")
    assert said.out == ""
