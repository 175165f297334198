from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError
from notebook_accel.launch.basic_config import default_config_file
from notebook_accel.utils import write_basic_config


def test_the_file_is_the_one_that_a_launch_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path / "home"))
    written = write_basic_config(mixed_precision="BF16")
    assert written == default_config_file() == tmp_path / "home" / "default_config.yaml"
    assert RunConfig.load(written) == RunConfig(mixed_precision="bf16")
    with pytest.warns(UserWarning, match="stays as it is"):
        assert write_basic_config() is False
    assert RunConfig.load(written).mixed_precision == "bf16"


def test_what_is_refused_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="half"):
        write_basic_config("half", save_location=tmp_path / "config.yaml")
    assert not list(tmp_path.iterdir())
