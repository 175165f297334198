"""The supervisor of one run: hosts the rendezvous store, gives birth to the ranks, reaps them, ends them.

The store lives here so that a dead rank 0 does not hide why the others fail. Ranks that are forked are forked before
the store's thread exists. The supervisor ends with the kernel, the ranks end with the supervisor.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from typing import NoReturn

from notebook_accel.wire import frames, parcel
from notebook_accel.wire.control import Interrupt, Kill, RankExited, StartRun, SupervisorFailed, TimedOut
from notebook_accel.worker import system
from notebook_accel.worker.births import Birth
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import Seat

DESCRIPTORS_A_RANK = 3
_ACKNOWLEDGED_GRACE_SECONDS = 5.0  # the rank has raised KeyboardInterrupt and may clean up
_SILENT_GRACE_SECONDS = 2.0  # its Python handler has not run: native code that nothing will wake
_STACK_SECONDS = 0.3  # a rank writes its stack within a few milliseconds, whatever it does
_NEVER = float("inf")


@dataclass(frozen=True)
class Surroundings:
    """What a supervisor gets from whoever started it.

    Attributes:
        control: the socket to the kernel.
        descriptors: the store's listening socket, the ends of each rank's channels, the files of the call.
        kernel: a descriptor that becomes readable when the kernel ends, None where there is no such thing.
        parent_pid: the kernel's process if that is the parent, else None.
    """

    control: socket.socket
    descriptors: list[int]
    kernel: int | None
    parent_pid: int | None = None


def main(start: StartRun, surroundings: Surroundings, birth: Birth) -> NoReturn:
    """Run one run to its end and exit; called in a process of its own."""
    code = 1
    try:
        system.set_process_name("nbacc-supervise")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        supervisor = Supervisor(start, surroundings)
        try:
            supervisor.start_ranks(birth)
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
        time_is_up_at: when the run has had its time.
    """

    time_is_up_at: float
    interrupt_at: float = _NEVER
    interrupted_at: float | None = None
    killed: set[int] = field(default_factory=set)


class Supervisor:
    """One run's parent process."""

    def __init__(self, start: StartRun, surroundings: Surroundings) -> None:
        self._start = start
        self._control = surroundings.control
        self._descriptors = surroundings.descriptors
        self._kernel = surroundings.kernel
        self._parent_pid = surroundings.parent_pid
        self._flags_file = Flags.make_file(start.world_size)
        self._flags = Flags.of_file(self._flags_file, start.world_size)
        self._stacks = [parcel.anonymous_file(f"stack{number}") for number in range(start.world_size)]
        self._alive: dict[int, _Rank] = {}
        self._stop = _Stop(start.stop_at_seconds)
        self._doomed: set[int] = set()  # the processes that were killed
        self._orders = frames.FrameReader()
        self._store: object = None
        self._problem: BaseException | None = None

    def start_ranks(self, birth: Birth) -> None:
        """Give birth to every rank, then start serving the store they meet at."""
        listener, *others = self._descriptors
        lifelines = [os.pipe() for _ in range(self._start.world_size)]
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        ends = iter(others)
        seats = [
            Seat(number, next(ends), next(ends), next(ends), lifelines[number][0], self._stacks[number])
            for number in range(self._start.world_size)
        ]
        ours = {listener, self._control.fileno(), self._wake_read, self._wake_write, *(write for _, write in lifelines)}
        ours |= set() if self._kernel is None else {self._kernel}
        of_ranks = {end for seat in seats for end in seat.descriptors}
        for seat in seats:
            strangers = ours | of_ranks.difference(seat.descriptors)
            pid = birth(seat, self._flags_file, sorted(strangers))
            self._alive[pid] = _Rank(seat.number, pid)
        system.close_all([*others, *(read for read, _ in lifelines)])
        self._serve_store(listener)

    def _serve_store(self, listener: int) -> None:
        """Serve the store that the ranks meet at; a fresh interpreter imports torch meanwhile."""
        if "torch.distributed" in sys.modules:
            self._store = _store(listener, self._start.port)
        else:
            threading.Thread(target=self._serve_store_later, args=(listener,), daemon=True).start()

    def _serve_store_later(self, listener: int) -> None:
        try:
            self._store = _store(listener, self._start.port)
        except BaseException as error:  # noqa: BLE001 - the main thread must hear of it
            self._problem = error
            os.write(self._wake_write, b"\0")

    def watch(self) -> None:
        """Reap the ranks, pass on interrupts, and end everything when the kernel is gone."""
        watched = [self._control.fileno(), self._wake_read] + ([] if self._kernel is None else [self._kernel])
        while self._alive:
            ready = system.wait_readable(watched, self._seconds_to_next_step())
            if self._problem is not None:
                raise self._problem
            if self._kernel in ready or self._is_orphaned() or not self._obey(ready):
                self._kill_all()
                watched = [self._wake_read]
            self._reap()
            self._climb()
        system.remove_shared_memory(self._doomed)

    def _is_orphaned(self) -> bool:
        return self._parent_pid not in {None, os.getppid()}

    def fail(self, reason: str) -> None:
        """End every rank and tell the kernel what broke."""
        self._kill_all()
        self._report(SupervisorFailed(reason))

    def _report(self, message: object) -> None:
        try:
            frames.send(self._control, message)
        except OSError:
            pass  # the kernel is gone, or has stopped listening; the ranks are ended either way

    def _obey(self, ready: set[int]) -> bool:
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
            all_returned = all(self._flags.finished(rank.number) for rank in self._alive.values())
            time_is_up_at = _NEVER if all_returned else self._stop.time_is_up_at
            waiting = min(self._stop.interrupt_at, time_is_up_at) - time.monotonic()
            if self._parent_pid is not None and self._kernel is None:
                waiting = min(waiting, 1.0)  # nothing wakes us when the kernel ends
            return None if waiting == _NEVER else max(0.0, waiting)
        return 0.1  # somebody is being ended: look again soon

    def _reap(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        for pid in list(self._alive):
            reaped, status, used = os.wait4(pid, os.WNOHANG)
            if reaped == 0:
                continue
            rank = self._alive.pop(pid)
            system.kill_group(pid, signal.SIGKILL)  # what the rank has left running
            told = self._stop.interrupted_at is not None or rank.number in self._stop.killed
            code = os.waitstatus_to_exitcode(status)
            told_at, peak = self._stop.interrupted_at, used.ru_maxrss * system.BYTES_OF_MAXRSS
            self._report(RankExited(rank.number, code, time.monotonic(), told, told_at, peak))
            if not self._flags.finished(rank.number):
                self._stop.interrupt_at = min(self._stop.interrupt_at, time.monotonic() + self._start.grace_seconds)

    def _climb(self) -> None:
        """Take the next step of ending ranks: interrupt them, then kill what does not end."""
        if self._stop.interrupted_at is None:
            unfinished = [rank for rank in self._alive.values() if not self._flags.finished(rank.number)]
            if time.monotonic() >= self._stop.time_is_up_at and unfinished:
                self._report(TimedOut(time.monotonic(), self._find_stacks(unfinished)))
                self._stop.interrupt_at = 0.0
            if time.monotonic() >= self._stop.interrupt_at:
                self._stop.interrupted_at = time.monotonic()
                for rank in self._alive.values():
                    self._flags.order_interrupt(rank.number)
                    os.kill(rank.pid, signal.SIGINT)
            return
        now = time.monotonic()
        for rank in self._alive.values():
            acknowledged = self._flags.acknowledged(rank.number)
            grace = _ACKNOWLEDGED_GRACE_SECONDS if acknowledged else _SILENT_GRACE_SECONDS
            if now >= self._stop.interrupted_at + grace:
                self._kill(rank)

    def _find_stacks(self, ranks: list[_Rank]) -> dict[int, str]:
        """Ask ranks where they are, also those that are in native code."""
        asked = {rank.number: rank.pid for rank in ranks}
        stacks = dict.fromkeys(asked, "")
        for number, pid in asked.items():
            if self._flags.listening(number):
                os.kill(pid, system.STACK_SIGNAL)
        deadline = time.monotonic() + _STACK_SECONDS
        while time.monotonic() < deadline and not all(_is_whole(stack) for stack in stacks.values()):
            time.sleep(0.01)
            for number in asked:
                stacks[number] = os.pread(self._stacks[number], 1 << 16, 0).decode(errors="replace")
        return stacks

    def _kill_all(self) -> None:
        for rank in self._alive.values():
            self._kill(rank)

    def _kill(self, rank: _Rank) -> None:
        self._stop.killed.add(rank.number)
        self._doomed |= system.group_members(rank.pid)
        system.kill_group(rank.pid, signal.SIGKILL)
        os.kill(rank.pid, signal.SIGKILL)  # it may not lead its group yet


def _is_whole(stack: str) -> bool:
    return stack.endswith("\n") and "  File " in stack.splitlines()[-1]


def _store(listener: int, port: int) -> object:
    from torch.distributed import TCPStore  # noqa: PLC0415 - forks have it loaded; a fresh interpreter starts ranks first

    return TCPStore(
        "127.0.0.1",
        port,
        None,
        is_master=True,
        timeout=timedelta(minutes=30),
        wait_for_workers=False,
        master_listen_fd=listener,
    )
