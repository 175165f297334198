"""The two seams of a launch: who starts ranks, and what a started run can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.result import RunResult

RunState = Literal["running", "succeeded", "failed", "interrupted"]


class Run(ABC):
    """A run that has been started.

    Attributes:
        plan: what was decided before it started.
    """

    plan: LaunchPlan

    @property
    @abstractmethod
    def state(self) -> RunState:
        """How the run stands."""

    @abstractmethod
    def output(self) -> Iterator[str]:
        """Give the ranks' output as it arrives, until every rank has ended. For one consumer."""

    @abstractmethod
    def result(self) -> RunResult[Any]:
        """Wait for the end and give what the ranks returned.

        Raises:
            RankFailed: the function failed on a rank, or a rank was killed.
            KeyboardInterrupt: the run was interrupted.
            LaunchError: the machinery failed.
        """

    @abstractmethod
    def notices(self) -> list[str]:
        """Say what went wrong without making the ended run fail."""

    @abstractmethod
    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in every rank; those that do not end are killed after a grace."""

    @abstractmethod
    def kill(self) -> None:
        """End every rank now."""


class Spawner(ABC):
    """A way to start ranks."""

    @abstractmethod
    def start(self, plan: LaunchPlan, call: Call) -> Run:
        """Start ``plan.world_size`` ranks that call the function.

        Raises:
            PayloadError: the function or its arguments cannot travel; nothing was started.
            LaunchError: the machinery could not start.
        """
