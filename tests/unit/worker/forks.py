"""Call a function in a forked child, where it may change what the whole process has."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any


def in_a_fork(function: Callable[..., Any], *args: Any) -> Any:
    """Give what ``function`` returns in a child of this process; what it raises fails the test."""
    read_end, write_end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads; the child runs none of theirs
        pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(30)
            os.close(read_end)
            try:
                answer = pickle.dumps((True, function(*args)))
            except BaseException:
                answer = pickle.dumps((False, traceback.format_exc()))
            with open(write_end, "wb") as file:
                file.write(answer)
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"
    succeeded, value = pickle.loads(answer)
    assert succeeded, value
    return value


def in_a_child(function: Callable[[], Any]) -> int:
    """Fork a child that runs ``function`` and never returns to the test; give its process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads; the child runs none of theirs
        pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(30)
            signal.set_wakeup_fd(-1)
            function()
        finally:
            os._exit(1)
    return pid


def in_a_fresh_process(code: str, *args: str) -> str:
    """Give what Python code prints in a process of its own."""
    import subprocess

    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
