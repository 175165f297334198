from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_accel.cli import launch
from notebook_accel.cli.questions import ask, keep, kept_settings, shown
from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.hardware.inventory import Inventory


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "probe", lambda: Inventory.fake(gpus=2))


def asked(before: RunConfig, *answers: str) -> tuple[RunConfig, list[str], list[str]]:
    given: Iterator[str] = iter(answers)
    questions: list[str] = []
    told: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return next(given)

    config = ask(before, answer, told.append)
    assert list(given) == []
    return config, questions, told


def test_empty_answers_keep_what_was_there_also_what_is_not_asked() -> None:
    before = RunConfig(devices=(1,), mixed_precision="bf16", port=2000, seed=3)
    config, questions, told = asked(before, "", "", "")
    assert config == before
    assert [question.partition(",")[0] for question in questions] == ["devices", "num_processes", "mixed_precision"]
    assert [question.rpartition("[")[2] for question in questions] == ["1]: ", "auto]: ", "bf16]: "]
    assert told[0] == "  -> 1 GPU process (Made-up GPU)"


def test_answers_are_taken_over() -> None:
    config, _, told = asked(RunConfig(), "cpu", "4", "bf16")
    assert config == RunConfig(devices="cpu", num_processes=4, mixed_precision="bf16")
    assert told[-1] == "  -> 4 CPU processes, gloo, bf16"


def test_what_is_impossible_here_is_said_and_asked_again() -> None:
    config, questions, told = asked(RunConfig(), "5", "0,1", "3", "two", "2", "half", "no")
    assert config == RunConfig(devices=(0, 1), num_processes=2)
    assert len(questions) == 7
    said = " ".join(text for text in told if not text.startswith("  ->"))
    assert "names [5]" in said
    assert "num_processes=3, but there are 2 devices" in said
    assert "'two'" in said
    assert "'half'" in said


def test_what_the_machine_has_no_more_is_not_proposed() -> None:
    _, questions, _ = asked(RunConfig(devices=(7,), num_processes=8), "", "", "")
    assert [question.rpartition("[")[2] for question in questions] == ["auto]: ", "auto]: ", "no]: "]


def test_settings_are_kept_in_a_file_whose_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "config.yaml"
    assert kept_settings(file) == RunConfig()
    assert "does not exist" in shown(file)
    keep(RunConfig(num_processes=3), file)
    assert kept_settings(file) == RunConfig(num_processes=3)
    assert "num_processes: 3" in shown(file).splitlines()


def test_a_file_of_something_else_is_not_replaced_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("ranks: 3\n")
    with pytest.raises(ConfigError, match="ranks"):
        kept_settings(file)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotAvailableError, match=r"config\.yaml cannot be written"):
        keep(RunConfig(), tmp_path / "file" / "config.yaml")
