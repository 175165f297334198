"""The zygote: imports what every rank needs once, then forks a supervisor for each run.

It runs no torch operation, starts no thread, never touches a GPU, and ends with the kernel.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator

from notebook_accel import process
from notebook_accel.wire import frames
from notebook_accel.wire.control import Preloaded, Refusal, StartRun, SupervisorFailed
from notebook_accel.worker import huge_pages, system

# In the order of import. The second group is what the first optimizer or backward pass imports (1.5 to 4 s).
_FIRST = ("torch", "torch.distributed", "torch.nn.parallel", "torch.utils.data", "notebook_accel.worker.rank")
_SECOND = ("torch._dynamo",)
# What is imported in the middle of a rank's start or first training step, where the installed version has it.
_LAZY = ("numpy.random", "torch.profiler._cupti_monitor")
_LOOK_SECONDS = 0.5


def main(control_descriptor: int, kernel_pid: int, preload: list[str]) -> None:
    """Serve the kernel until it ends. Never returns to the caller's code in a forked child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    system.set_process_name("nbacc-zygote")
    system.become_subreaper()
    control = socket.socket(fileno=control_descriptor)
    kernel = system.open_process(kernel_pid)
    if os.getppid() != kernel_pid:
        return
    with _ending_with(kernel_pid):
        for name in (*_FIRST, *_SECOND):
            importlib.import_module(name)
        for name in _LAZY:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        refused = _preload(preload)
    sys.modules["notebook_accel.worker.freshness"].thread_pools()
    tempfile.tempdir = None  # where torch has found it; each rank looks for itself, in its own environment
    gc.collect()
    gc.freeze()  # a collection in a child then leaves the shared pages alone
    with contextlib.suppress(OSError):  # a kernel that does not want this zygote any more may have left runs in it
        frames.send(control, Preloaded(refused))
    if not refused:
        with contextlib.suppress(EOFError, OSError):
            _serve(control, kernel, kernel_pid)


@contextlib.contextmanager
def _ending_with(kernel_pid: int) -> Iterator[None]:
    """End when the kernel does, also in the middle of the imports, which take seconds and watch nothing."""

    def look(*_: object) -> None:
        if os.getppid() != kernel_pid:
            os._exit(0)

    signal.signal(signal.SIGALRM, look)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if signal.getsignal(signal.SIGALRM) is look:  # a module of the user's may have taken it
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _preload(names: list[str]) -> dict[str, Refusal]:
    """Import the user's modules one by one; the first that makes forking unsafe is named."""
    refused: dict[str, Refusal] = {}
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - whatever an import raises, the kernel must hear it
            refused[name] = Refusal(False, f"cannot be imported: {type(error).__name__}: {error}")
            break
        reason = why_unsafe_to_fork()
        if reason is not None:
            refused[name] = Refusal(True, reason)
            break  # what follows cannot be told apart from it
    return refused


def why_unsafe_to_fork() -> str | None:
    """Say what in this process would break a forked child, None if nothing would."""
    if process.native_thread_count() > 1:
        return "importing it starts a thread"
    live = process.live_accelerator()
    return None if live is None else f"importing it initialises {live}"


def _serve(control: socket.socket, kernel: int | None, kernel_pid: int) -> None:
    wake_read, wake_write = os.pipe()
    for end in (wake_read, wake_write):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    watched = [control.fileno(), wake_read] + ([] if kernel is None else [kernel])
    idle_work: Iterator[bool] | None = huge_pages.collapse_heap()
    patience = None if kernel is not None else 1.0
    while True:
        ready = system.wait_readable(watched, patience if idle_work is None else 0.0)
        if idle_work is not None and not ready and next(idle_work, None) is None:
            idle_work = None
        _reap(wake_read)
        if kernel in ready or os.getppid() != kernel_pid:
            return
        if control.fileno() in ready:
            message, descriptors = frames.receive(control)
            assert isinstance(message, StartRun)
            _fork_supervisor(message, descriptors, [*watched, wake_write], kernel)
            system.close_all(descriptors)


def _reap(wake_read: int) -> None:
    try:
        os.read(wake_read, 4096)
    except BlockingIOError:
        return
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _fork_supervisor(start: StartRun, descriptors: list[int], ours: list[int], kernel: int | None) -> None:
    try:
        if os.fork() != 0:
            return
    except OSError:  # no room for another process: this run's trouble, not the zygote's
        with socket.socket(fileno=os.dup(descriptors[0])) as kernels_end:
            frames.send(kernels_end, SupervisorFailed(traceback.format_exc()))
        return
    signal.set_wakeup_fd(-1)
    from notebook_accel.worker import births, seat, supervisor  # noqa: PLC0415 - they are only ever needed in a fork

    system.close_all([end for end in ours if end != kernel])
    control, *others = descriptors
    files = others[1 + supervisor.DESCRIPTORS_A_RANK * start.world_size :]
    birth = births.forked(start, functools.partial(seat.load_call, files))
    supervisor.main(start, supervisor.Surroundings(socket.socket(fileno=control), others, kernel), birth)
