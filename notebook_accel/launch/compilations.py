"""The folder where XLA keeps compiled programs between launches: one for each version, bounded in size."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from notebook_accel import environment

LIMIT_BYTES = 8 << 30


def folder() -> Path:
    """Give the folder of all versions; it may not exist."""
    return Path(environment.home_folder()) / "compilations"


def folder_of_this_version() -> Path:
    """Give the folder for the installed torch_xla: a program of another version is never found again."""
    versions = [f"{name}-{_version(name)}" for name in ("torch_xla", "libtpu")]
    return folder() / "_".join(versions)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def bound(limit_bytes: int = LIMIT_BYTES) -> int:
    """Remove the programs that were written longest ago until the rest fits, and give how many bytes that freed.

    Args:
        limit_bytes: what all programs together may take.
    """
    files = sorted(_programs(), key=lambda found: found[1].st_mtime)
    total, freed = sum(status.st_size for _, status in files), 0
    for file, status in files:
        if total - freed <= limit_bytes:
            break
        file.unlink(missing_ok=True)
        freed += status.st_size
    return freed


def _programs() -> Iterator[tuple[Path, os.stat_result]]:
    for file in folder().rglob("*"):
        try:
            status = file.lstat()
        except OSError:  # another run has just removed or renamed it
            continue
        if stat.S_ISREG(status.st_mode):
            yield file, status


def clear_compilation_cache() -> int:
    """Remove every program that XLA has compiled for launches of this user, and give how many bytes that freed.

    The next launch on a TPU compiles anew, which takes as long as the first did.

    Example:
        >>> clear_compilation_cache() >= 0
        True
    """
    found = sum(status.st_size for _, status in _programs())
    shutil.rmtree(folder(), ignore_errors=True)
    return found
