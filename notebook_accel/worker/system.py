"""The few calls to the operating system that Python has no name for. Each is a no-op where it does not exist."""

from __future__ import annotations

import ctypes
import fcntl
import math
import os
import select
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_LONGEST_WAIT_MILLISECONDS = 1 << 30
_F_SETSIG = 10  # Linux; Python's fcntl module does not name it before 3.13

# Ask a process where it is, and where all its threads are. No program uses the real-time signals by name; macOS has
# none.
STACK_SIGNAL = signal.SIGRTMIN + 11 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
ALL_STACKS_SIGNAL = signal.SIGRTMIN + 12 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGINFO", signal.SIGUSR1)

BYTES_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024  # the unit in which the system says how much was in use

_libc = ctypes.CDLL(None, use_errno=True)


def set_process_name(name: str) -> None:
    """Show ``name`` (15 bytes at most) in ps and top."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def become_subreaper() -> None:
    """Adopt the orphans of this process's descendants, so that none outlives a run unseen."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Get SIGTERM when the thread that started this process ends."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def flush_c_streams() -> None:
    """Write out what C code has printed and libc still holds."""
    _libc.fflush(None)


def lead_group_until_closed(read_end: int) -> None:
    """Lead a process group of its own, which the kernel ends with SIGKILL once every write end of the pipe is closed.

    On Linux it needs no Python thread, so it works while native code holds the GIL. It takes the group's other
    processes (DataLoader workers) along. The caller is the pipe's only reader.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    if sys.platform != "linux":
        threading.Thread(
            target=_kill_group_at_end, args=(read_end,), name="notebook_accel-lifeline", daemon=True
        ).start()
        return
    fcntl.fcntl(read_end, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    try:
        if os.read(read_end, 1) == b"":  # closed before the signal was armed
            os.killpg(os.getpgrp(), signal.SIGKILL)
    except BlockingIOError:
        pass


def _kill_group_at_end(read_end: int) -> None:
    os.read(read_end, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def wait_readable(descriptors: Iterable[int], timeout_seconds: float | None) -> set[int]:
    """Wait until one of the descriptors can be read or has been closed at its other end; give those that can."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    longest = None if timeout_seconds is None else min(_LONGEST_WAIT_MILLISECONDS, math.ceil(1000 * timeout_seconds))
    return {descriptor for descriptor, _ in waiting.poll(longest)}


def open_process(pid: int) -> int | None:
    """Give a descriptor that becomes readable when process ``pid`` ends, None where that is unsupported."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def kill_group(leader: int, signal_number: int) -> None:
    """Signal a process group; that it is gone already is fine."""
    try:
        os.killpg(leader, signal_number)
    except (ProcessLookupError, PermissionError):
        pass


def group_members(leader: int) -> set[int]:
    """Give the processes of a process group, as far as the system lists them."""
    members = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[2]) == leader:
            members.add(int(stat.parent.name))
    return members


def remove_shared_memory(pids: set[int]) -> None:
    """Remove the tensor files of killed processes: a DataLoader worker may die between making and unlinking one."""
    for pid in pids:
        for file in Path("/dev/shm").glob(f"torch_{pid}_*"):  # noqa: S108 - where torch puts them
            file.unlink(missing_ok=True)


def close_all(descriptors: Iterable[int]) -> None:
    """Close every descriptor of a list."""
    for descriptor in descriptors:
        os.close(descriptor)
