"""The two seams of a launch: who starts ranks, and what a started run can be asked."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from notebook_accel.launch.job import Call, Job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.run import Run
from notebook_accel.launch.screen import Screen


@dataclass(frozen=True)
class Attempt:
    """One start of a run, which may be started again.

    Attributes:
        number: how often it was started before.
        screen: where what the ranks print goes.
        started_at: when the run was first started, on the monotonic clock.
        run_id: the run's name for whoever asks for one (TORCHELASTIC_RUN_ID).
    """

    number: int = 0
    screen: Screen = field(default_factory=Screen)
    started_at: float = field(default_factory=time.monotonic)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Spawner(ABC):
    """A way to start ranks."""

    def start(self, plan: LaunchPlan, call: Call) -> Run[Any]:
        """Start ``plan.world_size`` ranks that call the function.

        Raises:
            PayloadError: the function or its arguments cannot travel; nothing was started.
            LaunchError: the machinery could not start.
        """
        return self.run(plan, self.pack(plan, call), Attempt())

    def run(self, plan: LaunchPlan, job: Job, attempt: Attempt) -> Run[Any]:
        """Start the only attempt of a run; the job is closed when it has ended, so that no rank's end waits for that.

        Raises:
            LaunchError: the machinery could not start.
        """
        try:
            run = self.launch(plan, job, attempt)
        except BaseException:
            job.close()
            raise
        run.when_ended(job.close)
        return run

    @abstractmethod
    def pack(self, plan: LaunchPlan, call: Call) -> Job:
        """Bring the call into the form in which it reaches the ranks; ``launch`` may be given it several times.

        Raises:
            PayloadError: the function or its arguments cannot travel.
        """

    @abstractmethod
    def launch(self, plan: LaunchPlan, job: Job, attempt: Attempt) -> Run[Any]:
        """Start the ranks.

        Raises:
            LaunchError: the machinery could not start.
        """
