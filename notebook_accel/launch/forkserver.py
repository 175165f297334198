"""``start_method="forkserver"``: ranks forked from the warm zygote, whatever the kernel itself has done before."""

from __future__ import annotations

import atexit
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from notebook_accel import environment
from notebook_accel.errors import ConfigError, RankFailed, ResultUnavailable
from notebook_accel.launch.follower import Follower, KernelEnds
from notebook_accel.launch.job import Call, make_job
from notebook_accel.launch.output import label_of
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.result import RunResult, Value
from notebook_accel.launch.spawner import Run, RunState, Spawner
from notebook_accel.launch.verdict import RankReport, failures_of, notices_of
from notebook_accel.launch.zygote import Zygote, ZygoteKeeper, search_path
from notebook_accel.wire import frames, parcel
from notebook_accel.wire.control import Interrupt, Kill, StartRun
from notebook_accel.wire.outcome import Returned, Unreturnable

_KEEP_IN_MEMORY_BYTES = 1 << 20  # a larger value stays in the file that the rank wrote, mapped
_PORT_PATIENCE_SECONDS = 1.0
_ENDING_SECONDS = 0.5

_keeper = ZygoteKeeper()
atexit.register(_keeper.shut_down)
os.register_at_fork(after_in_child=_keeper.forget)


def warm(preload: tuple[str, ...] = ()) -> list[str]:
    """Start the zygote ahead of the first launch; see ``ZygoteKeeper.warm``."""
    return _keeper.warm(preload)


def shut_down() -> None:
    """End the zygote; the next launch starts a new one."""
    _keeper.shut_down()


class ForkserverSpawner(Spawner):
    """Starts ranks through the zygote.

    Attributes:
        notices: what the user should know about the latest start.
    """

    def __init__(self) -> None:
        self.notices: list[str] = []

    def start(self, plan: LaunchPlan, call: Call) -> ForkedRun:
        """Send the call to the zygote; see ``Spawner.start``."""
        started_at = time.monotonic()
        with ExitStack() as undo, ExitStack() as handed_over:
            job = make_job(call)
            handed_over.callback(os.close, job.file)
            control, supervisor_end = socket.socketpair()
            undo.callback(control.close)
            handed_over.callback(supervisor_end.close)
            listener = handed_over.enter_context(_listen(plan.config.port, plan.world_size))
            descriptors = [supervisor_end.fileno(), job.file, listener.fileno()]
            ranks: list[KernelEnds] = []
            for rank in range(plan.world_size):
                ends, theirs = _open_channels(rank, label_of(rank, plan.config.log_prefix))
                undo.callback(ends.close)
                for descriptor in theirs[:2]:
                    handed_over.callback(os.close, descriptor)
                ranks.append(ends)
                descriptors += theirs
            start = _start_message(plan, job.sources, listener.getsockname()[1])
            zygote, self.notices = _keeper.launch(plan.config.preload, start, descriptors)
            run = ForkedRun(plan, control, ranks, zygote, started_at)
            undo.pop_all()
        return run


def _listen(port: int, world_size: int) -> socket.socket:
    """Open the store's socket before any rank starts: nobody has to guess a port, and nobody can take it meanwhile."""
    deadline = time.monotonic() + _PORT_PATIENCE_SECONDS
    while True:
        try:
            return socket.create_server(("127.0.0.1", port), backlog=max(128, 2 * world_size))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.01)  # the supervisor of the run before may still be ending
                continue
            raise ConfigError(f"use_port={port}: port {port} cannot be opened: {error}", "leave use_port out") from None


def _open_channels(rank: int, label: str) -> tuple[KernelEnds, list[int]]:
    """Give our ends of one rank's channels, and the descriptors that the rank gets."""
    with ExitStack() as undo:
        read_end, write_end = os.pipe()
        undo.callback(os.close, read_end)
        undo.callback(os.close, write_end)
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        undo.callback(theirs.close)
        result_file = parcel.anonymous_file(f"result{rank}")
        undo.callback(os.close, result_file)
        ends = KernelEnds(rank, label, read_end, ours, result_file)
        undo.pop_all()
    return ends, [write_end, theirs.detach(), result_file]


def _start_message(plan: LaunchPlan, sources: dict[str, list[str]], port: int) -> StartRun:
    return StartRun(
        run_id=f"{os.getpid()}-{time.monotonic_ns()}",
        world_size=plan.world_size,
        device_kind=plan.device_kind,
        mixed_precision=plan.config.mixed_precision,
        seed=plan.config.seed,
        threads_per_rank=plan.threads_per_rank,
        port=port,
        grace_seconds=plan.config.grace_seconds,
        environ={**plan.defaults, **environment.current(), **plan.environ},
        cwd=str(Path.cwd()),
        sys_path=search_path(),
        sources=sources,
    )


class ForkedRun(Run):
    """A run under a supervisor of its own."""

    def __init__(
        self, plan: LaunchPlan, control: socket.socket, ranks: list[KernelEnds], zygote: Zygote, started_at: float
    ) -> None:
        self.plan = plan
        self._control = control
        self._ranks = ranks
        self._zygote = zygote
        self._started_at = started_at
        self._ended = threading.Event()
        self._interrupted = False
        self._result: RunResult[Any] | None = None
        self._error: Exception | None = None
        self._follower = Follower(control, ranks, self._settle)
        self._follower.start()

    @property
    def state(self) -> RunState:
        """How the run stands."""
        if not self._ended.is_set():
            return "running"
        if self._interrupted:
            return "interrupted"
        return "failed" if self._error is not None else "succeeded"

    def output(self) -> Iterator[str]:
        """Give the ranks' output as it arrives; see ``Run.output``."""
        while (text := self._follower.screen.get()) is not None:
            yield text

    def result(self) -> RunResult[Any]:
        """Wait for the end; see ``Run.result``."""
        self._ended.wait()
        self._follower.join()
        if self._interrupted:
            raise KeyboardInterrupt
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def notices(self) -> list[str]:
        """Say what of the ended run would be missed otherwise; see ``Run.notices``."""
        return notices_of([rank.report for rank in self._ranks])

    def interrupt(self) -> None:
        """Interrupt every rank; see ``Run.interrupt``."""
        self._order(Interrupt())

    def kill(self) -> None:
        """End every rank now; see ``Run.kill``."""
        self._order(Kill())

    def _order(self, message: object) -> None:
        if self._ended.is_set():
            return
        self._interrupted = True
        with suppress(OSError):  # the supervisor has just ended: so have the ranks
            frames.send(self._control, message)

    def _settle(self) -> None:
        """In the follower's thread: make the verdict and let go of every descriptor."""
        try:
            elapsed = time.monotonic() - self._started_at
            reports = [rank.report for rank in self._ranks]
            values = tuple(_value_of(rank.report, rank.result_file) for rank in self._ranks)
            self._result = RunResult(values, tuple(rank.output for rank in self._ranks), elapsed)
            failures = failures_of(reports)
            if failures:
                failed = RankFailed(failures, len(reports))
                failed.result = self._result
                self._error = failed
            elif self._follower.problem is not None:
                alive = self._zygote.is_alive(_ENDING_SECONDS)
                self._error = self._follower.problem if alive else self._zygote.broken()
        finally:
            for rank in self._ranks:
                rank.close()
            self._control.close()
            self._ended.set()


def _value_of(report: RankReport, result_file: int) -> Value:
    if not isinstance(report.outcome, Returned):
        reason = report.outcome.reason if isinstance(report.outcome, Unreturnable) else "it did not return"
        problem = ResultUnavailable(
            f"rank {report.rank}: {reason}", "return plain data, tensors or modules; the other ranks' values are there"
        )
        return Value(f"<not available: {reason}>", problem=problem)
    try:
        packed = parcel.read(result_file)
    except ValueError as error:
        problem = ResultUnavailable(f"rank {report.rank}: its value did not arrive whole: {error}", "run it again")
        return Value("<damaged>", problem=problem)
    if parcel.total_bytes(packed) < _KEEP_IN_MEMORY_BYTES:
        packed = parcel.in_memory(packed)
    return Value(report.outcome.preview, packed)
