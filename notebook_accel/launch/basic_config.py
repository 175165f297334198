"""The file that ``notebook-accel launch`` starts from, written without questions."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal

from notebook_accel import environment
from notebook_accel.config import RunConfig


def default_config_file() -> Path:
    """Give where ``notebook-accel config`` writes and ``launch`` reads; it may not exist."""
    return Path(environment.home_folder()) / "default_config.yaml"


def write_basic_config(
    mixed_precision: str = "no", save_location: str | os.PathLike[str] | None = None
) -> Path | Literal[False]:
    """Write a config file that leaves devices and the number of ranks to the launcher, unless there is one.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        save_location: the file; None takes the one that ``notebook-accel launch`` reads.

    Returns:
        The file; False, with a warning, where there was one, which stays as it is.

    Raises:
        ConfigError: an unknown precision.

    Example:
        >>> import tempfile
        >>> path = write_basic_config("bf16", Path(tempfile.mkdtemp()) / "config.yaml")
        >>> RunConfig.load(path).mixed_precision
        'bf16'
    """
    path = default_config_file() if save_location is None else Path(save_location)
    config = RunConfig(mixed_precision=mixed_precision.lower())  # type: ignore[arg-type]  # checked there
    if path.exists():
        warnings.warn(f"{path} is there already and stays as it is", stacklevel=2)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    config.save(path)
    return path
