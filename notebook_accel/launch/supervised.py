"""A run under a supervisor of its own, and what all ways to start one have in common."""

from __future__ import annotations

import socket
import time
from abc import abstractmethod
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from notebook_accel import environment
from notebook_accel.errors import (
    AccelError,
    LaunchError,
    RankFailed,
    ResultUnavailable,
    RunHung,
    RunInterrupted,
    RunTimedOut,
)
from notebook_accel.hardware.memory import MemoryState
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.crashes import TAIL_BYTES
from notebook_accel.launch.follower import Follower, KernelEnds
from notebook_accel.launch.hang_report import HangReport
from notebook_accel.launch.hangs import HangWatch
from notebook_accel.launch.interpreter import search_path
from notebook_accel.launch.interrupts import interrupts_held
from notebook_accel.launch.job import Job
from notebook_accel.launch.metrics import Metrics
from notebook_accel.launch.places import place_of
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.rank_facts import RankFacts
from notebook_accel.launch.result import RunResult, Value
from notebook_accel.launch.run import Run
from notebook_accel.launch.spawner import Attempt, Spawner
from notebook_accel.launch.stacks import StackQuestions, main_thread, readable
from notebook_accel.launch.verdict import Memory, RankReport, failures_of, notices_of
from notebook_accel.wire import frames, parcel
from notebook_accel.wire.control import Interrupt, Kill, RequestStop, Stacks, StartRun, TellStacks
from notebook_accel.wire.outcome import Raised, Returned, Unreturnable, Withheld

_SPINNING = ("cuda", "mps")  # to wait for them may take a processor, while XLA compiles for minutes on one
_WATCHS_NUMBER = 0  # of the questions that nobody waits for
_KEEP_IN_MEMORY_BYTES = 1 << 20  # a larger value stays in the file that the rank wrote, mapped


class Parent(Protocol):
    """The process that a supervisor came from, or is."""

    def explain(self, problem: LaunchError) -> LaunchError:
        """Say more about why the machinery broke, where more is known."""

    def run_ended(self, *, begun: bool) -> None:
        """Clear away what the run of this parent leaves behind; its supervisor is ending, or has not begun."""


class SupervisedSpawner(Spawner):
    """Starts a supervisor, which starts the ranks."""

    def launch(self, plan: LaunchPlan, job: Job, attempt: Attempt) -> SupervisedRun:
        """Start the run; see ``Spawner.launch``."""
        try:
            with interrupts_held():
                return self._launch(plan, job, attempt)
        except OSError as error:
            what = f"{job.call.name} could not be started: {error}"
            raise LaunchError(
                what, "lower num_processes, or the number of runs and open files of this process"
            ) from error

    def _launch(self, plan: LaunchPlan, job: Job, attempt: Attempt) -> SupervisedRun:
        with ExitStack() as undo:
            channels = Channels.open(plan, f"{attempt.run_id}.{attempt.number}")
            undo.callback(channels.close_ours)
            try:
                start = _start_message(plan, job, attempt, channels.port)
                parent, notices = self.begin(start, channels, job, plan)
            finally:
                channels.close_theirs()
            run = SupervisedRun(plan, job.call.name, channels, parent, attempt)
            run.start_notices = [*job.notices, *notices] if attempt.number == 0 else notices
            undo.pop_all()
        return run

    @abstractmethod
    def begin(self, start: StartRun, channels: Channels, job: Job, plan: LaunchPlan) -> tuple[Parent, list[str]]:
        """Start the supervisor; give its parent and what the user should know.

        Raises:
            LaunchError: it cannot be started.
        """


def _start_message(plan: LaunchPlan, job: Job, attempt: Attempt, port: int) -> StartRun:
    config = plan.config
    timeout = config.timeout_seconds
    return StartRun(
        run_id=attempt.run_id,
        world_size=plan.world_size,
        device_kind=plan.device_kind,
        mixed_precision=config.mixed_precision,
        seed=config.seed,
        threads_per_rank=plan.threads_per_rank,
        port=port,
        grace_seconds=config.grace_seconds,
        stop_at_seconds=float("inf") if timeout is None else attempt.started_at + timeout,
        returns=config.returns,
        restart_count=attempt.number,
        max_restarts=config.max_restarts,
        resumes=config.resume is not None,
        environ={**plan.defaults, **environment.current(), **plan.environ},
        cwd=str(Path.cwd()),
        sys_path=search_path(),
        sources=job.sources,
    )


class SupervisedRun(Run[Any]):
    """A run under a supervisor of its own."""

    def __init__(self, plan: LaunchPlan, name: str, channels: Channels, parent: Parent, attempt: Attempt) -> None:
        super().__init__(plan, name, attempt.screen, attempt.started_at)
        self._control = channels.control
        self._ranks = channels.ranks
        self._parent = parent
        self._killed = False
        self._stopped_as_hung = False
        self._ordered_at: float | None = None
        self._result: RunResult[Any] | None = None
        self._memory_before = MemoryState.read()
        self._hang_report: HangReport | None = None
        self._questions = StackQuestions(lambda number: self._send(TellStacks(number, all_threads=True)))
        self._watch = HangWatch(
            name,
            [rank.report for rank in channels.ranks],
            plan.config.hang_timeout_seconds,
            ask=lambda: self._send(TellStacks(_WATCHS_NUMBER, all_threads=False)),
            tell=self._take_hang,
            sees_computing=plan.device_kind not in _SPINNING,
        )
        self._follower = Follower(
            channels.control,
            channels.ranks,
            attempt.screen,
            watch=self._watch,
            on_stacks=self._take_stacks,
            on_end=self._settle,
        )
        self._follower.start()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end; see ``Run.wait``."""
        ended = self._ended.wait(timeout_seconds)
        if ended:
            self._follower.join()
        return ended

    def logs(self, rank: int = 0) -> str:
        """Give what a rank has printed so far; see ``Run.logs``."""
        if not 0 <= rank < len(self._ranks):
            raise IndexError(f"rank {rank} is not one of the run's ranks 0..{len(self._ranks) - 1}")
        return self._ranks[rank].output.text()

    def rank_facts(self) -> list[RankFacts]:
        """Say what is known of the ranks; see ``Run.rank_facts``."""
        return [rank.facts() for rank in self._ranks]

    def result(self) -> RunResult[Any]:
        """Wait for the end; see ``Run.result``."""
        self.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)  # not one more frame for each time it is asked for
        assert self._result is not None
        return self._result

    def notices(self) -> list[str]:
        """Say what would be missed otherwise; see ``Run.notices``."""
        return notices_of([rank.report for rank in self._ranks])

    @property
    def hang(self) -> str | None:
        """How the ranks hung; see ``Run.hang``."""
        return None if self._hang_report is None else str(self._hang_report)

    def stacks(self, timeout_seconds: float = 2.0) -> dict[int, str]:
        """Say where the ranks are; see ``Run.stacks``."""
        answer = self._questions.ask(timeout_seconds)
        if answer is not None:
            return {rank: readable(text) for rank, text in answer.stacks.items()}
        if self._questions.closed:
            return {}
        silent = f"the run's supervisor did not answer in {timeout_seconds:g} s"
        return {rank.report.rank: silent for rank in self._ranks if rank.report.exited is None}

    def _take_stacks(self, answer: Stacks) -> None:
        if answer.number == _WATCHS_NUMBER:
            self._watch.take(answer)
        else:
            self._questions.take(answer)

    def _take_hang(self, report: HangReport) -> None:
        """In the follower's thread: say it, and end the run where that was asked for."""
        self._hang_report = report
        stops = self.config.hang_action == "stop"
        more = ["  it is stopped now"] if stops else []
        self._screen.put("".join(f"notebook_accel: {line}\n" for line in (*report.lines, *more)))
        if stops and self._ordered_at is None:
            self._stopped_as_hung = True
            self._order(Interrupt())

    def interrupt(self) -> None:
        """Interrupt every rank; see ``Run.interrupt``."""
        self._order(Interrupt())

    def request_stop(self) -> None:
        """Ask every rank to end by itself; see ``Run.request_stop``."""
        if not self._ended.is_set():
            with suppress(OSError):  # the supervisor has just ended: so have the ranks
                frames.send(self._control, RequestStop())

    def kill(self) -> None:
        """End every rank now; see ``Run.kill``."""
        if self._killed and not self._ended.is_set():
            with suppress(OSError):  # it has not obeyed: to be left alone ends it too, and the run here in any case
                self._control.shutdown(socket.SHUT_RDWR)
        self._killed = True
        self._order(Kill())

    def _order(self, message: object) -> None:
        if self._ended.is_set():
            return
        if self._ordered_at is None:
            self._ordered_at = time.monotonic()
        self._watch.stop()
        if self._follower.has_begun:
            self._send(message)
        else:  # it may import for seconds; one that comes to it finds that it is not wanted
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)

    def _send(self, message: object) -> None:
        with suppress(OSError):  # the supervisor has just ended: so have the ranks
            frames.send(self._control, message)

    def _settle(self) -> None:
        """In the follower's thread: make the verdict and let go of every descriptor."""
        try:
            # Whoever else holds a copy of the socket: a supervisor that is still there ends its ranks now, and itself.
            with suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            self._conclude()
            self._parent.run_ended(begun=self._follower.has_begun)
        except Exception as error:  # noqa: BLE001 - a run must not pass for ended well because of that
            self._error = LaunchError(f"the end of {self.name} could not be made out: {error!r}", "run it again")
        finally:
            for rank in self._ranks:
                rank.close()
            self._control.close()
            self._questions.close()
            self._finish()

    def _conclude(self) -> None:
        elapsed = time.monotonic() - self.started_at
        values = tuple(_value_of(rank) for rank in self._ranks)
        outputs = tuple(rank.output for rank in self._ranks)
        self._result = RunResult(values, outputs, elapsed, Metrics.of(rank.logged for rank in self._ranks))
        self._error = self._verdict()
        if isinstance(self._error, (RankFailed, RunInterrupted, RunTimedOut)):
            self._error.result = self._result

    def _verdict(self) -> AccelError | None:
        reports = [rank.report for rank in self._ranks]
        for rank in self._ranks:
            exited = rank.report.exited
            if exited is not None and exited.exit_code < 0 and not exited.ended_by_us:
                rank.report.last_words = rank.output.raw()[-TAIL_BYTES:].decode(errors="replace")
        memory = MemoryState.read()
        failures = failures_of(reports, Memory(memory.ran_out_since(self._memory_before), memory.limit_bytes))
        first_at = failures[0].at_seconds if failures else float("inf")
        interrupted = self._follower.interrupted
        if interrupted is not None and interrupted.timed_out and not first_at < interrupted.at_seconds:
            return self._timed_out(interrupted.stacks)
        if self._stopped_as_hung and self._hang_report is not None and not first_at < self._hang_report.at_seconds:
            hint = "mend what the ranks wait for; error.result has what was returned and printed"
            return RunHung(self._hang_report.what, hint, self._hang_report.places)
        if self._ordered_at is not None:
            by_itself = first_at < self._ordered_at
            unfinished = any(report.outcome is None or isinstance(report.outcome, Raised) for report in reports)
            if unfinished and not by_itself:
                return self._interrupted()
        if failures:
            return RankFailed(failures, len(reports))
        return None if self._follower.problem is None else self._parent.explain(self._follower.problem)

    def _timed_out(self, stacks: dict[int, str]) -> RunTimedOut:
        what = f"{self.name} had not ended after timeout_seconds={self.config.timeout_seconds}"
        hint = "give it more time, or mend what it waits for; error.result has what was returned and printed"
        return RunTimedOut(what, hint, _places(stacks))

    def _interrupted(self) -> RunInterrupted:
        if not self._follower.has_begun:
            return RunInterrupted(f"{self.name} was interrupted before its ranks were started", "run it again")
        what = f"{self.name} was interrupted before it had returned on every rank"
        hint = "error.result has what the ranks had returned and printed by then"
        if self._follower.interrupted is None:
            return RunInterrupted(what, hint, {})
        places = {rank.report.rank: _without_stack(rank.report) for rank in self._ranks}
        return RunInterrupted(what, hint, places | _places(self._follower.interrupted.stacks))


def _places(stacks: dict[int, str]) -> dict[int, str]:
    return {rank: place_of(main_thread(stack)) for rank, stack in stacks.items()}


def _without_stack(report: RankReport) -> str:
    """Say where a rank was that was not asked when the run was interrupted."""
    if report.outcome is not None:
        return "had failed" if isinstance(report.outcome, Raised) else "had returned"
    return "had ended" if report.exited is not None and not report.exited.ended_by_us else "was still starting"


def _value_of(rank: KernelEnds) -> Value:
    report = rank.report
    if isinstance(report.outcome, Returned):
        return _returned(report, report.outcome, rank.result_file)
    if isinstance(report.outcome, Withheld):
        reason, hint = 'only rank 0\'s value was asked for (returns="rank0")', 'ask for all with returns="all"'
    else:
        reason = report.outcome.reason if isinstance(report.outcome, Unreturnable) else "it did not return"
        hint = "return plain data, tensors or modules; the other ranks' values are there"
    return Value(f"<not available: {reason}>", problem=ResultUnavailable(f"rank {report.rank}: {reason}", hint))


def _returned(report: RankReport, outcome: Returned, result_file: int) -> Value:
    try:
        packed = parcel.read(result_file)
    except ValueError as error:
        problem = ResultUnavailable(f"rank {report.rank}: its value did not arrive whole: {error}", "run it again")
        return Value("<damaged>", problem=problem)
    if parcel.total_bytes(packed) < _KEEP_IN_MEMORY_BYTES:
        packed = parcel.in_memory(packed)
    return Value(outcome.preview, packed)
