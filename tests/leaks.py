"""The leak police: what a test leaves behind makes it fail.

Every process that a test starts inherits a mark in its environment, so that orphans are found whoever adopted them.
The launcher keeps one warm helper process on purpose: it is a child of this process, and is shut down before the
last count only when something was found, so that tests which share a helper do not pay for it each time.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.patience import wait_until

MARK = "NOTEBOOK_ACCEL_TEST_RUN"
SETTLE_SECONDS = 3.0  # processes and threads may take this long to end after the test did

# The first is one per process, for its life; a browser starts and ends helpers of its own while its fixture holds it.
_LASTING_PROCESSES = ("multiprocessing.resource_tracker", "chromium --type=")
_LASTING_THREADS = ("TMonitor", "HistorySavingThread", "IPythonHistorySavingThread", "IOPubThread")
_LASTING_TARGETS = ("/dev/urandom", "/dev/nvidia")
_VARIABLES_OF_OTHERS = {
    "PYTEST_CURRENT_TEST",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYDEVD_USE_FRAME_EVAL",  # set where ipykernel 6 is imported
    "TORCHINDUCTOR_CACHE_DIR",
}


@dataclass(frozen=True)
class Snapshot:
    """What this process has, each thing under a key that tells it from its successors."""

    processes: dict[tuple[int, float], str]
    threads: dict[int, str]
    descriptors: dict[tuple[str, str], str]
    shared_memory: frozenset[str]
    variables: dict[str, str]
    folder: str
    handlers: dict[int, Any]


def take() -> Snapshot:
    return Snapshot(
        processes=_processes(),
        threads={id(t): f"{t.name} ({type(t).__name__})" for t in threading.enumerate() if not _lasting_thread(t)},
        descriptors=_descriptors(),
        shared_memory=frozenset(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else frozenset(),
        variables={name: value for name, value in os.environ.items() if name not in _VARIABLES_OF_OTHERS},
        folder=os.getcwd(),
        handlers={int(number): signal.getsignal(number) for number in signal.valid_signals()},
    )


def _lasting_thread(thread: threading.Thread) -> bool:
    # An event loop keeps its threads; a loop that is itself left behind shows by its descriptors.
    return (
        type(thread).__name__ in _LASTING_THREADS
        or isinstance(thread, threading._DummyThread)
        or thread.name.startswith("asyncio_")
    )


def _processes() -> dict[tuple[int, float], str]:
    mine, own_line = os.environ.get(MARK), {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    descendants = {process.pid for process in psutil.Process().children(recursive=True)}
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid in own_line or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.pid in descendants or (mine is not None and process.environ().get(MARK) == mine):
                command = " ".join(process.cmdline())[:200]
                if not any(name in command for name in _LASTING_PROCESSES):
                    found[process.pid, process.create_time()] = f"pid {process.pid}: {command or process.name()}"
        except psutil.Error:
            continue
    return found


def _descriptors() -> dict[tuple[str, str], str]:
    found = {}
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else None
    for number in os.listdir(folder) if folder else ():
        try:
            target = os.readlink(folder / number)
        except OSError:
            continue  # the descriptor that listed the folder
        if not target.startswith(_LASTING_TARGETS):
            found[number, target] = f"{number} -> {target}"
    return found


def in_use_elsewhere(name: str) -> bool:
    """True when a process of somebody else maps the shared memory or holds it open, or when it is gone."""
    try:
        found = (Path("/dev/shm") / name).stat()
    except OSError:
        return True
    for process in psutil.process_iter():
        folder = Path("/proc") / str(process.pid)
        try:
            if process.pid == os.getpid() or process.environ().get(MARK) == os.environ.get(MARK):
                continue
            # By number: a semaphore's owner has mapped it under the name that it had before it was complete.
            mapped = (line.split(maxsplit=5) for line in (folder / "maps").read_text().splitlines())
            if any(parts[4] == str(found.st_ino) and "/dev/shm/" in parts[-1] for parts in mapped):
                return True
            if any(os.path.samestat(os.stat(descriptor), found) for descriptor in (folder / "fd").iterdir()):
                return True
        except (psutil.Error, OSError):
            continue
    return False


def differences(before: Snapshot, after: Snapshot, *, besides_helper: bool = False) -> list[str]:
    """What ``after`` has that ``before`` had not; with ``besides_helper``, only what no helper explains."""
    processes = {key: text for key, text in after.processes.items() if key not in before.processes}
    if besides_helper:
        direct = {child.pid for child in psutil.Process().children()}
        return [f"process {text}" for (pid, _), text in processes.items() if pid not in direct]
    found = [f"process {text}" for text in processes.values()]
    found += [f"thread {text}" for key, text in after.threads.items() if key not in before.threads]
    found += [f"descriptor {text}" for key, text in after.descriptors.items() if key not in before.descriptors]
    new = after.shared_memory - before.shared_memory
    found += [f"shared memory /dev/shm/{name}" for name in sorted(new) if not in_use_elsewhere(name)]
    for name in sorted(before.variables.keys() | after.variables.keys()):
        if before.variables.get(name) != after.variables.get(name):
            found.append(f"variable {name}: {before.variables.get(name)!r} -> {after.variables.get(name)!r}")
    if before.folder != after.folder:
        found.append(f"working directory {before.folder} -> {after.folder}")
    for number, handler in after.handlers.items():
        if before.handlers.get(number) != handler:
            found.append(f"signal handler of {signal.Signals(number).name}: {handler!r}")
    return found


def collect_garbage() -> None:
    """Collect what is left, and set aside what is not: to look through all that is imported takes most of a second."""
    gc.collect()
    gc.freeze()


def settled(before: Snapshot, *, besides_helper: bool = False) -> list[str]:
    """Count until nothing is left or the time is up; give what is left."""
    collect_garbage()
    found: list[str] = []

    def nothing_is_left() -> bool:
        found[:] = differences(before, take(), besides_helper=besides_helper)
        return not found

    wait_until(nothing_is_left, SETTLE_SECONDS)
    return found


def shut_down_helper() -> bool:
    """End the launcher's warm helper process; False where the launcher was never used."""
    forkserver = sys.modules.get("notebook_accel.launch.forkserver")
    if forkserver is not None:
        forkserver.shut_down()
    return forkserver is not None


def clean_up(before: Snapshot) -> None:
    """Undo what would make every later test fail too."""
    for pid, created in take().processes.keys() - before.processes.keys():
        try:
            process = psutil.Process(pid)
            if process.create_time() == created:
                process.kill()
        except psutil.Error:
            continue
    os.chdir(before.folder)
    for name in set(os.environ) - before.variables.keys() - _VARIABLES_OF_OTHERS:
        del os.environ[name]
    os.environ.update(before.variables)
    for number, handler in before.handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def marked_run() -> Iterator[None]:
    """Mark every process of this run, and see that none is alive when it ends."""
    os.environ[MARK] = uuid.uuid4().hex
    collect_garbage()
    before = take()
    yield
    shut_down_helper()
    left = [text for text in settled(before) if text.startswith("process")]
    clean_up(before)
    assert not left, "left behind by the whole run:\n  " + "\n  ".join(left)


@pytest.fixture(autouse=True)
def no_leaks(marked_run: None) -> Iterator[None]:
    """Fail a test that leaves something behind."""
    before = take()
    yield
    if not differences(before, take()):
        return
    left = settled(before, besides_helper=True)
    if not left and differences(before, take()):
        shut_down_helper()
        left = settled(before)
    if left:
        shut_down_helper()
        clean_up(before)
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
