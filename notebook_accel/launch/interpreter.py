"""Start fresh interpreters for the launcher's own processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from notebook_accel import environment

_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])


def search_path() -> tuple[str, ...]:
    """Give sys.path with the working directory written out."""
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def start(
    module: str, arguments: str, descriptors: tuple[int, ...], log: IO[bytes], variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start an interpreter in a session of its own that runs ``module.function`` of the worker's package.

    Args:
        module: the function, for example "zygote.main".
        arguments: the text of its arguments.
        descriptors: what it inherits.
        log: where its output goes.
        variables: what its environment has beside this process's.
    """
    name, _, function = module.partition(".")
    boot = f"import sys; sys.path[:] = sys.argv[1:];import notebook_accel.worker.{name} as m; m.{function}({arguments})"
    # The notebook's folder must not shadow what the process imports; ranks get the whole path later.
    own_path = [entry for entry in search_path() if entry != str(Path.cwd())] + [_PACKAGE_PARENT]
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", f"{boot}; import os; os._exit(0)", *own_path],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={**environment.current(), **variables},
        start_new_session=True,
    )


def said(log: IO[bytes]) -> str:
    """Give the last lines that a process has written to its log."""
    text = os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")
    return "\n".join(text.strip().splitlines()[-12:]) or "it said nothing"
