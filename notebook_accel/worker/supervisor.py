"""The supervisor of one run: hosts the rendezvous store, forks the ranks, reaps them, ends them.

The store lives here so that a dead rank 0 does not hide why the others fail. The ranks are forked before the
store's thread exists. The supervisor ends with the kernel, the ranks end with the supervisor.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import time
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

from notebook_accel.wire import frames
from notebook_accel.wire.control import Interrupt, Kill, RankExited, StartRun, SupervisorFailed
from notebook_accel.worker import rank as rank_process
from notebook_accel.worker import system
from notebook_accel.worker.flags import Flags

_DESCRIPTORS_A_RANK = 3
_ACKNOWLEDGED_GRACE_SECONDS = 5.0  # the rank has raised KeyboardInterrupt and may clean up
_SILENT_GRACE_SECONDS = 2.0  # its Python handler has not run: native code that nothing will wake
_STORE_TIMEOUT = timedelta(minutes=30)


def main(start: StartRun, descriptors: list[int], kernel: int | None) -> NoReturn:
    """Run one run to its end and exit; called in a process of its own."""
    code = 1
    try:
        system.set_process_name("nbacc-supervise")
        supervisor = Supervisor(start, descriptors, kernel)
        try:
            supervisor.start_ranks()
            supervisor.watch()
            code = 0
        except BaseException:  # noqa: BLE001 - a broken supervisor must still end its ranks and say why
            supervisor.fail(traceback.format_exc())
    finally:
        os._exit(code)


@dataclass
class _Rank:
    """A rank as its parent sees it."""

    number: int
    pid: int


@dataclass
class _Stop:
    """The state of the stop ladder.

    Attributes:
        interrupt_at: when the ranks are interrupted, on the monotonic clock.
        interrupted_at: when they were.
        killed: whether they were killed.
    """

    interrupt_at: float = float("inf")
    interrupted_at: float | None = None
    killed: set[int] = field(default_factory=set)


class Supervisor:
    """One run's parent process."""

    def __init__(self, start: StartRun, descriptors: list[int], kernel: int | None) -> None:
        self._start = start
        self._control = socket.socket(fileno=descriptors[0])
        self._job = descriptors[1]
        self._listener = socket.socket(fileno=descriptors[2])
        self._rank_ends = descriptors[3:]
        self._kernel = kernel
        self._flags = Flags(mmap.mmap(-1, mmap.PAGESIZE * (1 + 2 * start.world_size // mmap.PAGESIZE)))
        self._alive: dict[int, _Rank] = {}
        self._stop = _Stop()
        self._doomed: set[int] = set()  # the processes that were killed
        self._orders = frames.FrameReader()
        self._store: object = None

    def start_ranks(self) -> None:
        """Fork every rank, then start serving the store they meet at."""
        lifelines = [os.pipe() for _ in range(self._start.world_size)]
        wake_read, wake_write = os.pipe()
        self._wake_read = wake_read
        for end in (wake_read, wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in range(self._start.world_size):
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                ends = self._rank_ends[number * _DESCRIPTORS_A_RANK :][:_DESCRIPTORS_A_RANK]
                keep = {*ends, self._job, lifelines[number][0]}
                every = {end for pair in lifelines for end in pair} | set(self._rank_ends)
                every |= {self._job, wake_read, wake_write, *([] if self._kernel is None else [self._kernel])}
                system.close_all(sorted(every - keep))
                self._control.close()
                self._listener.close()
                rank_process.main(self._start, number, self._job, ends, lifelines[number][0], self._flags)
            self._alive[pid] = _Rank(number, pid)
        system.close_all([*self._rank_ends, self._job, *(read for read, _ in lifelines)])
        self._store = _serve_store(self._listener, self._start.port)

    def watch(self) -> None:
        """Reap the ranks, pass on interrupts, and end everything when the kernel is gone."""
        watched = [self._control.fileno(), self._wake_read] + ([] if self._kernel is None else [self._kernel])
        while self._alive:
            ready, _, _ = select.select(watched, [], [], self._seconds_to_next_step())
            if self._kernel in ready or not self._obey(ready):
                self._kill_all()
                watched = [self._wake_read]
            self._reap()
            self._climb()
        system.remove_shared_memory(self._doomed)

    def fail(self, reason: str) -> None:
        """End every rank and tell the kernel what broke."""
        self._kill_all()
        self._report(SupervisorFailed(reason))

    def _report(self, message: object) -> None:
        try:
            frames.send(self._control, message)
        except OSError:
            pass  # the kernel is gone, or has stopped listening; the ranks are ended either way

    def _obey(self, ready: list[int]) -> bool:
        """Carry out what the kernel says; False when it is gone."""
        if self._control.fileno() not in ready:
            return True
        try:
            data = self._control.recv(4096)
        except ConnectionError:
            return False
        for order in self._orders.feed(data):
            if isinstance(order, Interrupt):
                self._stop.interrupt_at = time.monotonic()
            elif isinstance(order, Kill):
                self._kill_all()
        return bool(data)

    def _seconds_to_next_step(self) -> float | None:
        if self._stop.interrupted_at is None:
            waiting = self._stop.interrupt_at - time.monotonic()
            return None if waiting == float("inf") else max(0.0, waiting)
        return 0.1  # somebody is being ended: look again soon

    def _reap(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        for pid in list(self._alive):
            reaped, status = os.waitpid(pid, os.WNOHANG)
            if reaped == 0:
                continue
            rank = self._alive.pop(pid)
            system.kill_group(pid, signal.SIGKILL)  # what the rank has left running
            told = self._stop.interrupted_at is not None or rank.number in self._stop.killed
            code = os.waitstatus_to_exitcode(status)
            self._report(RankExited(rank.number, code, time.monotonic(), told))
            if not self._flags.finished(rank.number):
                self._stop.interrupt_at = min(self._stop.interrupt_at, time.monotonic() + self._start.grace_seconds)

    def _climb(self) -> None:
        """Take the next step of ending ranks: interrupt them, then kill what does not end."""
        now = time.monotonic()
        if self._stop.interrupted_at is None:
            if now >= self._stop.interrupt_at:
                self._stop.interrupted_at = now
                for rank in self._alive.values():
                    self._flags.order_interrupt(rank.number)
                    os.kill(rank.pid, signal.SIGINT)
            return
        for rank in self._alive.values():
            acknowledged = self._flags.acknowledged(rank.number)
            grace = _ACKNOWLEDGED_GRACE_SECONDS if acknowledged else _SILENT_GRACE_SECONDS
            if now >= self._stop.interrupted_at + grace:
                self._kill(rank)

    def _kill_all(self) -> None:
        for rank in self._alive.values():
            self._kill(rank)

    def _kill(self, rank: _Rank) -> None:
        self._stop.killed.add(rank.number)
        self._doomed |= system.group_members(rank.pid)
        system.kill_group(rank.pid, signal.SIGKILL)
        os.kill(rank.pid, signal.SIGKILL)  # it may not lead its group yet


def _serve_store(listener: socket.socket, port: int) -> object:
    from torch.distributed import TCPStore  # noqa: PLC0415 - the zygote has it loaded; tests import this module without

    return TCPStore(
        "127.0.0.1",
        port,
        None,
        is_master=True,
        timeout=_STORE_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
