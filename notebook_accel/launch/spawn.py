"""``start_method="spawn"``: a fresh interpreter for the supervisor and for each rank, nothing forked anywhere."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO

from notebook_accel.errors import LaunchError
from notebook_accel.launch import interpreter
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.job import Call, Job, make_job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.supervised import Parent, SupervisedSpawner
from notebook_accel.wire import frames
from notebook_accel.wire.control import StartRun

_ENDING_SECONDS = 5.0
_CLOSING_SECONDS = 1.0


class SpawnSpawner(SupervisedSpawner):
    """Starts ranks as fresh interpreters."""

    def pack(self, plan: LaunchPlan, call: Call) -> Job:
        """Pickle the call; see ``Spawner.pack``."""
        return make_job(call, plan.config.by_value)

    def begin(self, start: StartRun, channels: Channels, job: Job, _plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Start the supervisor; see ``SupervisedSpawner.begin``."""
        return start_supervisor("execed", [], start, channels, job)


def start_supervisor(
    module: str, more: Sequence[object], start: StartRun, channels: Channels, job: Job
) -> tuple[Parent, list[str]]:
    """Start a fresh interpreter that supervises one run, and send it the run.

    Args:
        module: the module of the worker's package whose ``supervisor_main`` it calls.
        more: further arguments of that function.
        start: the run.
        channels: the channels of the run.
        job: the call.

    Raises:
        LaunchError: it did not start.
    """
    theirs = channels.supervisor_end.fileno()
    with ExitStack() as undo:
        log = undo.enter_context(tempfile.TemporaryFile())
        arguments = ", ".join(map(repr, [theirs, os.getpid(), *more]))
        process = interpreter.start(f"{module}.supervisor_main", arguments, (theirs,), log, {})
        supervisor = _Supervisor(process, log)
        undo.callback(process.wait)
        undo.callback(process.kill)
        try:
            frames.send(channels.control, start, [*channels.theirs, *job.files])
        except OSError as error:
            problem = LaunchError(f"the run's supervisor did not start: {error}", "run the cell again")
            raise supervisor.explain(problem) from None
        undo.pop_all()
    return supervisor, []


class _Supervisor:
    """The supervisor as its parent sees it."""

    def __init__(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    def explain(self, problem: LaunchError) -> LaunchError:
        """Add how it ended and what it printed; its socket closes a moment before it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSING_SECONDS)
        said = interpreter.said(self._log)
        return LaunchError(f"{problem.what}\n(exit code {self._process.poll()}) {said}", problem.hint)

    def run_ended(self, *, begun: bool) -> None:
        """Reap it; one that does not end is killed, and its ranks with it."""
        if not begun:
            self._process.kill()
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
