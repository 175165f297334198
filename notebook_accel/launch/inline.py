"""``start_method="inline"``: the function runs right here, so that ``%debug`` and breakpoints work."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from notebook_accel import environment
from notebook_accel.errors import RankFailed, RunInterrupted
from notebook_accel.launch.job import Call, Job
from notebook_accel.launch.metrics import Entry, Metrics
from notebook_accel.launch.output import RankOutput
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.rank_facts import RankFacts
from notebook_accel.launch.result import RunResult, Value
from notebook_accel.launch.run import Run
from notebook_accel.launch.spawner import Attempt, Spawner
from notebook_accel.launch.tee import teed
from notebook_accel.launch.verdict import exit_notices
from notebook_accel.world import World


class InlineSpawner(Spawner):
    """Runs the function in this process, as the one rank of a world of one."""

    def pack(self, _plan: LaunchPlan, call: Call) -> Job:
        """Leave the call where it is; see ``Spawner.pack``."""
        return Job(call)

    def launch(self, plan: LaunchPlan, job: Job, attempt: Attempt) -> InlineRun:
        """Run to the end; see ``Spawner.launch``."""
        return InlineRun(plan, job.call, attempt)


class InlineRun(Run[Any]):
    """A run that has ended by the time it exists."""

    def __init__(self, plan: LaunchPlan, call: Call, attempt: Attempt) -> None:
        super().__init__(plan, call.name, attempt.screen, attempt.started_at)
        self._restart_count = attempt.number
        self._output = RankOutput()
        self._logged: list[Entry] = []
        self._exited = False
        value: object = None
        try:
            value = self._call(call)
        except KeyboardInterrupt as interrupt:
            self._error = RunInterrupted(f"{self.name} was interrupted", "run it again").with_traceback(
                interrupt.__traceback__
            )
        except BaseException as error:  # noqa: BLE001 - whatever the function raises is its outcome
            self._error = self._failed(error)
        preview = importlib.import_module("notebook_accel.worker.results").preview
        held = Value.present(value, preview(value))
        elapsed_seconds = time.monotonic() - self.started_at
        self._result: RunResult[Any] = RunResult((held,), (self._output,), elapsed_seconds, Metrics(self._logged))
        if isinstance(self._error, (RankFailed, RunInterrupted)):
            self._error.result = self._result
        self._finish()

    def _call(self, call: Call) -> object:
        # By name: the kernel's side does not import the worker's, except in this one case where it is both.
        worker = importlib.import_module("notebook_accel.worker.inline")
        config = self.plan.config
        world = World(
            device_kind=self.plan.device_kind, restart_count=self._restart_count, max_restarts=config.max_restarts
        )
        to_its_end = importlib.import_module("notebook_accel.worker.failure").call_to_its_end
        bound = functools.partial(to_its_end, call.target, call.args, call.kwargs)
        before = Path.cwd()
        try:
            with environment.patched(_variables(world, config.mixed_precision)), teed(self._output):
                options = worker.Options(
                    config.mixed_precision, config.seed, config.threads_per_rank, self._log, config.resume is not None
                )
                value, self._exited = worker.call(bound, world, options)
                return value
        finally:
            os.chdir(before)

    def _log(self, values: Mapping[str, Any], step: int | None) -> None:
        self._logged.append(Entry(0, values, step))

    def _failed(self, error: BaseException) -> RankFailed:
        describe = importlib.import_module("notebook_accel.worker.failure").describe
        here = [cls for cls in type(error).__mro__ if cls.__module__ not in sys.modules or cls.__module__ == "__main__"]
        failed = RankFailed((describe(error, 0, here),), 1)
        return failed.with_traceback(error.__traceback__)  # so that %debug stops in the function

    def wait(self, _timeout_seconds: float | None = None) -> bool:
        """Give True: the run has ended."""
        return True

    def logs(self, rank: int = 0) -> str:
        """Give what the function printed; see ``Run.logs``."""
        return self._result.logs(rank)

    def rank_facts(self) -> list[RankFacts]:
        """Say what is known of the one rank; see ``Run.rank_facts``."""
        return [RankFacts(None, None, self._output, self._logged)]

    def result(self) -> RunResult[Any]:
        """Give the function's value; see ``Run.result``."""
        if self._error is not None:
            raise self._error
        return self._result

    def notices(self) -> list[str]:
        """Say that the function exited, if it did; every way to go wrong here raises."""
        return exit_notices([0]) if self._exited else []

    def interrupt(self) -> None:
        """Do nothing: the run has ended."""

    def request_stop(self) -> None:
        """Do nothing: the run has ended."""

    def kill(self) -> None:
        """Do nothing: the run has ended."""


def _variables(world: World, mixed_precision: str) -> dict[str, str]:
    """Give the variables of a world of one, without a rendezvous: nobody hosts a store for it."""
    rendezvous = {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"}
    variables = world.to_env(mixed_precision=mixed_precision)
    return {name: value for name, value in variables.items() if name not in rendezvous}
