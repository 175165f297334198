"""A folder for what the ranks' own processes put aside for a while; it goes with the run, however they ended.

multiprocessing gives each process a folder for its sockets, which stays when the process is killed, as DataLoader
workers of an interrupted loop are. Here they share one that the supervisor takes away.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder(environ: Mapping[str, str]) -> Iterator[None]:
    """Keep the folder for the duration of a block. Supervisor, before it has ranks.

    Args:
        environ: the ranks' environment.
    """
    own = _folder_of(os.getpid(), environ)
    try:
        own.mkdir(mode=0o700, exist_ok=True)  # a supervisor of this number may have been killed
    except OSError:  # multiprocessing will say so where it needs one
        yield
        return
    try:
        yield
    finally:
        shutil.rmtree(own, ignore_errors=True)


def take(environ: Mapping[str, str]) -> None:
    """Let this process and those that it starts use the supervisor's folder. Rank, before it starts processes."""
    path = _folder_of(os.getppid(), environ)
    if path.is_dir() and path.lstat().st_uid == os.getuid():
        config = multiprocessing.current_process()._config  # type: ignore[attr-defined]  # noqa: SLF001 - no other way
        config["tempdir"] = str(path)


def _folder_of(supervisor_pid: int, environ: Mapping[str, str]) -> Path:
    return Path(environ.get("TMPDIR") or "/tmp", f"nbacc-{supervisor_pid}")  # noqa: S108 - whose it is is looked at
