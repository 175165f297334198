from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import pytest

from notebook_accel.cli.settings import (
    ASKED,
    SETTINGS,
    WITHOUT_MEANING,
    add_config_file,
    add_flags,
    asked_config,
    shown_path,
)
from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError
from notebook_accel.launch.basic_config import default_config_file


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path))
    return tmp_path


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_config_file(parser)
    add_flags(parser)
    return parser.parse_args(words)


def test_every_field_is_offered_or_said_to_have_no_meaning() -> None:
    offered = [each.name for each in SETTINGS]
    assert sorted([*offered, *WITHOUT_MEANING]) == sorted(each.name for each in fields(RunConfig))
    assert set(ASKED) <= set(offered)


def test_without_flags_and_file_a_launch_has_the_defaults() -> None:
    assert asked_config(parsed()) == (RunConfig(), [])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--num-processes", "3"], RunConfig(num_processes=3)),
        (["--num_processes=3"], RunConfig(num_processes=3)),
        (["--num-processes", "auto"], RunConfig()),
        (["--devices", "cpu"], RunConfig(devices="cpu")),
        (["--devices", "2"], RunConfig(devices=(2,))),
        (["--devices", "1, 3"], RunConfig(devices=(1, 3))),
        (["--mixed_precision", "bf16"], RunConfig(mixed_precision="bf16")),
        (["--timeout-seconds", "1.5"], RunConfig(timeout_seconds=1.5)),
        (["--port", "2000", "--max-restarts", "2"], RunConfig(port=2000, max_restarts=2)),
        (["--log-prefix", "[${rank}] ", "--run-id", "a"], RunConfig(log_prefix="[${rank}] ", run_id="a")),
        (["--threads-per-rank", "2"], RunConfig(threads_per_rank=2)),
    ],
)
def test_a_flag_sets_its_field(words: list[str], expected: RunConfig) -> None:
    assert asked_config(parsed(*words))[0] == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--num-processes", "two"], "num_processes"),
        (["--num-processes", "0"], "num_processes"),
        (["--devices", "cpu,1"], "devices"),
        (["--devices", "1,1"], "devices"),
        (["--mixed-precision", "fp8"], "mixed_precision"),
        (["--mixed-precision", "half"], "mixed_precision"),
        (["--timeout-seconds", "soon"], "timeout_seconds"),
        (["--port", "99999"], "port"),
        (["--max-restarts", "-1"], "max_restarts"),
    ],
)
def test_a_wrong_value_is_refused_by_name(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        asked_config(parsed(*words))


def test_the_default_file_counts_and_flags_win_over_it() -> None:
    RunConfig(num_processes=4, mixed_precision="bf16", devices="cpu").save(default_config_file())
    config, notices = asked_config(parsed("--num-processes", "2"))
    assert config == RunConfig(num_processes=2, mixed_precision="bf16", devices="cpu")
    assert notices == [f"settings from {shown_path(default_config_file())}"]


def test_a_named_file_takes_the_default_ones_place(home: Path) -> None:
    RunConfig(num_processes=4).save(default_config_file())
    RunConfig(mixed_precision="bf16").save(home / "other.yaml")
    config, _ = asked_config(parsed("--config-file", str(home / "other.yaml")))
    assert config == RunConfig(mixed_precision="bf16")


def test_a_named_file_must_exist(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        asked_config(parsed("--config-file", str(home / "missing.yaml")))


def test_what_has_no_meaning_for_a_script_is_said_and_left_out() -> None:
    RunConfig(seed=3, start_method="inline", num_processes=2).save(default_config_file())
    config, notices = asked_config(parsed())
    assert config == RunConfig(num_processes=2)
    assert [notice.partition(" has no meaning")[0] for notice in notices[1:]] == ["start_method", "seed"]


def test_a_path_is_shown_without_the_name_of_its_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    assert shown_path(tmp_path / "somebody" / "a" / "b.yaml") == "~/a/b.yaml"
    assert shown_path(tmp_path / "c.yaml") == str(tmp_path / "c.yaml")
