"""``start_method="fork"``: ranks forked from the kernel itself, with all it holds and without pickling any of it."""

from __future__ import annotations

import importlib
import os
import signal
import time
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

from notebook_accel import process
from notebook_accel.errors import LaunchError, NotAvailableError
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.job import Call, Job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.supervised import Parent, SupervisedSpawner
from notebook_accel.wire import pickling
from notebook_accel.wire.control import StartRun

_WORKER = ("births", "rank", "supervisor", "system")
_ENDING_SECONDS = 5.0
_LOOK_SECONDS = 0.001


class ForkSpawner(SupervisedSpawner):
    """Starts ranks as copies of this process."""

    def pack(self, _plan: LaunchPlan, call: Call) -> Job:
        """Leave the call where it is; see ``Spawner.pack``.

        Raises:
            NotAvailableError: something in this process would break its forks.
        """
        live = process.live_accelerator()
        if live is not None:
            what = (
                f'start_method="fork" cannot work here: {live} is initialised in this process, and no fork can use it'
            )
            raise NotAvailableError(
                what, "leave start_method out, or restart the kernel and launch before using a GPU or TPU"
            )
        _worker_modules()  # here, where an interrupt is heard: they bring torch
        namespace = getattr(call.target, "__globals__", {})
        pickling.track_classes(value for value in namespace.values() if isinstance(value, type))
        return Job(call)

    def begin(self, start: StartRun, channels: Channels, job: Job, _plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Fork the supervisor; see ``SupervisedSpawner.begin``."""
        kernel_pid = os.getpid()
        worker = _worker_modules()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child must not see one yet
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of the kernel's threads: the ranks use none of them.
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _supervise(worker, start, channels, job, kernel_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _Supervisor(pid), []


def _worker_modules() -> dict[str, Any]:
    """Import what the fork needs before there is one: an import in another thread could never end in the copy.

    By name: the kernel's side does not import the worker's, except where it becomes it.
    """
    return {name: importlib.import_module(f"notebook_accel.worker.{name}") for name in _WORKER}


def _supervise(worker: Mapping[str, Any], start: StartRun, channels: Channels, job: Job, kernel_pid: int) -> NoReturn:
    """In the fork: become the run's supervisor, whose forks the ranks are."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for descriptor in channels.our_descriptors():
            os.close(descriptor)
        kernel = worker["system"].open_process(kernel_pid)
        surroundings = worker["supervisor"].Surroundings(
            channels.supervisor_end, list(channels.theirs), kernel, kernel_pid
        )
        call = job.call.target, job.call.args, job.call.kwargs
        worker["supervisor"].main(
            start, surroundings, worker["births"].forked(start, lambda: call, copy_of_kernel=True)
        )
    finally:
        os._exit(70)


class _Supervisor:
    """The supervisor as its parent sees it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def explain(self, problem: LaunchError) -> LaunchError:
        """Add nothing: what it printed went where the kernel's own output goes."""
        return problem

    def run_ended(self, *, begun: bool) -> None:
        """Reap it; one that does not end is killed, and its ranks with it."""
        deadline = time.monotonic() + _ENDING_SECONDS
        try:
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                if not begun or time.monotonic() > deadline:
                    os.kill(self._pid, signal.SIGKILL)
                time.sleep(_LOOK_SECONDS)
        except ChildProcessError:
            pass  # somebody in the kernel waits for every child
