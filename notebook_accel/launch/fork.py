"""``start_method="fork"``: ranks forked from the kernel itself, with all it holds and without pickling any of it."""

from __future__ import annotations

import importlib
import os
import signal
import warnings
from dataclasses import replace
from typing import NoReturn

from notebook_accel import process
from notebook_accel.errors import LaunchError, NotAvailableError
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.job import Call, Job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.supervised import Parent, SupervisedSpawner
from notebook_accel.wire import pickling
from notebook_accel.wire.control import StartRun


class ForkSpawner(SupervisedSpawner):
    """Starts ranks as copies of this process."""

    def pack(self, plan: LaunchPlan, call: Call) -> Job:
        """Leave the call where it is; see ``Spawner.pack``.

        Raises:
            NotAvailableError: something in this process would break its forks.
        """
        live = process.live_accelerator()
        if live is not None:
            what = (
                f'start_method="fork" cannot work here: {live} is initialised in this process, and no fork can use it'
            )
            raise NotAvailableError(what, "leave start_method out, or restart the kernel and launch before using a GPU")
        threads = plan.config.threads_per_rank or 1
        if threads > 1 and process.has_torch_threads():
            what = f"threads_per_rank={threads}, but forks of a process whose torch has threads wait for them for ever"
            raise NotAvailableError(what, "leave threads_per_rank out, or leave start_method out")
        namespace = getattr(call.target, "__globals__", {})
        pickling.track_classes(value for value in namespace.values() if isinstance(value, type))
        return Job(call)

    def begin(self, start: StartRun, channels: Channels, job: Job, _plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Fork the supervisor; see ``SupervisedSpawner.begin``."""
        kernel_pid = os.getpid()
        if process.has_torch_threads():
            environ = {**start.environ, "OMP_NUM_THREADS": "1"}
            start = replace(start, threads_per_rank=1, environ=environ)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child must not see one yet
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns of the kernel's threads: the ranks use none of them.
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                _supervise(start, channels, job, kernel_pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _Supervisor(pid), []


def _supervise(start: StartRun, channels: Channels, job: Job, kernel_pid: int) -> NoReturn:
    """In the fork: become the run's supervisor, whose forks the ranks are."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for descriptor in channels.our_descriptors():
            os.close(descriptor)
        # By name: the kernel's side does not import the worker's, except where it becomes it.
        births = importlib.import_module("notebook_accel.worker.births")
        system = importlib.import_module("notebook_accel.worker.system")
        supervisor = importlib.import_module("notebook_accel.worker.supervisor")
        kernel = system.open_process(kernel_pid)
        surroundings = supervisor.Surroundings(channels.supervisor_end, list(channels.theirs), kernel, kernel_pid)
        call = job.call.target, job.call.args, job.call.kwargs
        supervisor.main(start, surroundings, births.forked(start, lambda: call, copy_of_kernel=True))
    finally:
        os._exit(70)


class _Supervisor:
    """The supervisor as its parent sees it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def explain(self, problem: LaunchError) -> LaunchError:
        """Add nothing: what it printed went where the kernel's own output goes."""
        return problem

    def run_ended(self) -> None:
        """Reap it."""
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # somebody in the kernel waits for every child
