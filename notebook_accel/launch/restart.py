"""A run that is started again when its function fails, each time under a new supervisor.

An error of the function's own that comes back in the same place is not tried a third time: it would come back for ever.
A rank that was killed, and an error that only follows from another rank's end, say nothing of the function.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

from notebook_accel.errors import AccelError, LaunchError, RankFailed, RunInterrupted, RunTimedOut
from notebook_accel.launch.job import Job
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.rank_facts import RankFacts
from notebook_accel.launch.result import RunResult
from notebook_accel.launch.run import Run
from notebook_accel.launch.spawner import Attempt, Spawner


class Place(NamedTuple):
    """Where the function failed.

    Attributes:
        kind: the type of its exception.
        file: the file of the innermost line of the user's own code, or of any code where there is none.
        line: that line.
    """

    kind: str
    file: str
    line: int


def place_of_failure(error: RankFailed) -> Place | None:
    """Give where the function itself failed, None where a rank was killed or only lost the connection to another.

    Args:
        error: how the run failed.
    """
    first = error.failures[0]
    frames = first.chain[-1].frames if first.chain else ()
    if not frames or first.knock_on or any(failure.signal_name is not None for failure in error.failures):
        return None
    innermost = next((frame for frame in reversed(frames) if frame.users), frames[-1])
    return Place(first.headline.partition(":")[0], innermost.file, innermost.line)


class RestartingRun(Run[Any]):
    """A run of several attempts; what it is asked is answered by the latest.

    Args:
        spawner: how each attempt is started.
        plan: what was decided.
        job: the call; closed at the end.
        attempt: the first.
        launching: held while a later one is started.

    Attributes:
        earlier_failures: why each attempt before the latest ended.
    """

    def __init__(
        self,
        spawner: Spawner,
        plan: LaunchPlan,
        job: Job,
        attempt: Attempt,
        launching: AbstractContextManager[Any] = nullcontext(),  # noqa: B008 - it has no state
    ) -> None:
        super().__init__(plan, job.call.name, attempt.screen, attempt.started_at)
        self._attempt = attempt
        self.earlier_failures: list[RankFailed] = []
        self._spawner = spawner
        self._job = job
        self._launching = launching
        self._stopped = self._asked_to_stop = False
        self._result: RunResult[Any] | None = None
        try:
            self._current = spawner.launch(plan, job, attempt)
        except BaseException:
            job.close()
            raise
        self.start_notices = self._current.start_notices
        self._current.when_ended(self._attempt_ended)

    def _attempt_ended(self) -> None:
        """Start the next attempt, or end; in the thread that followed the last one."""
        try:
            failure = self._failure()
            is_last = self._stopped or self._asked_to_stop or self._attempt.number >= self.config.max_restarts
            if failure is not None and not is_last:
                if not self._failed_there_before(failure):
                    self._restart(failure)
                    return
                self._screen.put(f"notebook_accel: {failure.what}; failed in the same place twice: not started again\n")
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits must hear of it
            broken = LaunchError(f"{self.name} could not be started again: {error!r}", "run it again")
            self._error = error if isinstance(error, AccelError) else broken
        self._job.close()
        self._finish()

    def _failure(self) -> RankFailed | None:
        """Give the failure that is a reason to try again, if that is how the attempt ended."""
        self._error = None
        try:
            self._result = self._with_earlier(self._current.result())
        except AccelError as error:
            self._error = error
            if isinstance(error, (RankFailed, RunInterrupted, RunTimedOut)):
                error.result = self._with_earlier(error.result)
        return self._error if isinstance(self._error, RankFailed) else None

    def _failed_there_before(self, failure: RankFailed) -> bool:
        place = place_of_failure(failure)
        return place is not None and place in map(place_of_failure, self.earlier_failures)

    def _restart(self, failure: RankFailed) -> None:
        self.earlier_failures.append(failure)
        self._attempt = replace(self._attempt, number=self._attempt.number + 1)
        how_often = f"restart {self._attempt.number} of {self.config.max_restarts}"
        self._screen.put(f"notebook_accel: {failure.what}; {how_often}\n")
        with self._launching:
            self._current = self._spawner.launch(self.plan, self._job, self._attempt)
        if self._stopped:
            self._current.kill()
        elif self._asked_to_stop:
            self._current.request_stop()
        self._current.when_ended(self._attempt_ended)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end of the last attempt; see ``Run.wait``."""
        ended = self._ended.wait(timeout_seconds)
        if ended:
            self._current.wait()
        return ended

    def result(self) -> RunResult[Any]:
        """Give what the last attempt gives; see ``Run.result``."""
        self.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)
        assert self._result is not None
        return self._result

    def _with_earlier(self, result: RunResult[Any]) -> RunResult[Any]:
        return replace(result, earlier_failures=tuple(self.earlier_failures))

    def logs(self, rank: int = 0) -> str:
        """Give what a rank has printed in the latest attempt; see ``Run.logs``.

        What was printed before is ``run.earlier_failures[i].result.logs(rank)``.
        """
        return self._current.logs(rank)

    def rank_facts(self) -> list[RankFacts]:
        """Say what is known of the latest attempt's ranks; see ``Run.rank_facts``."""
        return self._current.rank_facts()

    @property
    def hang(self) -> str | None:
        """How the latest attempt hung; see ``Run.hang``."""
        return self._current.hang

    def stacks(self, timeout_seconds: float = 2.0) -> dict[int, str]:
        """Say where the ranks of the current attempt are; see ``Run.stacks``."""
        return self._current.stacks(timeout_seconds)

    def notices(self) -> list[str]:
        """Say what should be known of the latest attempt; see ``Run.notices``."""
        return self._current.notices()

    def interrupt(self) -> None:
        """Interrupt the current attempt, the last then; see ``Run.interrupt``."""
        self._stopped = True
        self._current.interrupt()

    def request_stop(self) -> None:
        """Ask the current attempt to end by itself, the last then; see ``Run.request_stop``."""
        self._asked_to_stop = True
        self._current.request_stop()

    def kill(self) -> None:
        """End the current attempt, the last then; see ``Run.kill``."""
        self._stopped = True
        self._current.kill()
