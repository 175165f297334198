"""The supervisor of one run: hosts the rendezvous store, gives birth to the ranks, reaps them, has them ended.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

from notebook_accel.wire import frames
from notebook_accel.wire.control import (
    Interrupt,
    Interrupted,
    Kill,
    RankExited,
    RequestStop,
    Stacks,
    StartRun,
    Supervising,
    SupervisorFailed,
    TellStacks,
)
from notebook_accel.worker import scratch, system
from notebook_accel.worker.births import Birth
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.ladder import Ladder, Rank
from notebook_accel.worker.seat import SAY_PROGRESS, Seat
from notebook_accel.worker.stacks import StackFiles, computed

S = TypeVar("S", bound="Supervisor")

DESCRIPTORS_A_RANK = 3
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
    run_to_end(lambda: Supervisor(start, surroundings), lambda supervisor: supervisor.start_ranks(birth))


def run_to_end(make: Callable[[], S], start_ranks: Callable[[S], None]) -> NoReturn:
    """Make a supervisor, have it start its ranks, watch them to their end, and exit."""
    code = 1
    try:
        system.set_process_name("nbacc-supervise")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        supervisor = make()
        try:
            if supervisor.is_wanted():
                with scratch.folder(supervisor.start.environ):
                    start_ranks(supervisor)
                    supervisor.watch()
            code = 0
        except BaseException:  # noqa: BLE001 - a broken supervisor must still end its ranks and say why
            supervisor.fail(traceback.format_exc())
    finally:
        os._exit(code)


class Supervisor:
    """One run's parent process.

    Args:
        start: the run.
        surroundings: what it gets from whoever started it.

    Attributes:
        start: the run.
        wakers: write ends of the pipes on which the ranks' listening threads are told what to do, by rank.
    """

    def __init__(self, start: StartRun, surroundings: Surroundings) -> None:
        self.start = start
        self._control = surroundings.control
        self._descriptors = surroundings.descriptors
        self._kernel = surroundings.kernel
        self._parent_pid = surroundings.parent_pid
        self._flags_file = Flags.make_file(start.world_size)
        self._flags = Flags.of_file(self._flags_file, start.world_size)
        self._stacks = StackFiles(start.world_size, self._flags)
        self._alive: dict[int, Rank] = {}
        self._gone: set[int] = set()
        self._ladder = Ladder(self._flags)
        self._failed: set[int] = set()  # the ranks whose failure the others' grace has begun with
        self._interrupt_at = _NEVER  # the end of that grace, on the monotonic clock
        self._orders = frames.FrameReader()
        self._store: object = None
        self._problem: BaseException | None = None
        self.wakers: list[int] = []
        self._lifelines: list[int] = []

    def is_wanted(self) -> bool:
        """Say that it is there; False where the kernel has given the run up meanwhile."""
        return self._report(Supervising())

    def start_ranks(self, birth: Birth) -> None:
        """Give birth to every rank, then start serving the store they meet at."""
        seats = self.make_seats()
        ours = self.own_descriptors()
        of_ranks = {end for seat in seats for end in seat.descriptors}
        for seat in seats:
            strangers = ours | of_ranks.difference(seat.descriptors)
            pid = birth(seat, self._flags_file, sorted(strangers))
            self._alive[pid] = Rank(seat.number, pid, self.wakers[seat.number])
        system.close_all([*self._descriptors[1:], *(end for seat in seats for end in (seat.lifeline, seat.waking))])
        self.serve_store()

    def own_descriptors(self) -> set[int]:
        """Give the descriptors that are none of any rank's business."""
        ours = {self._descriptors[0], self._control.fileno(), self._wake_read, self._wake_write}
        ours |= {*self._lifelines, *self.wakers}
        return ours if self._kernel is None else ours | {self._kernel}

    def make_seats(self) -> list[Seat]:
        """Make the ranks' seats, and listen for the ends of children from now on."""
        lifelines = [os.pipe() for _ in range(self.start.world_size)]
        wakers = [os.pipe() for _ in range(self.start.world_size)]
        self._lifelines = [write for _, write in lifelines]
        self.wakers = [write for _, write in wakers]
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write, *self.wakers):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        ends = iter(self._descriptors[1:])
        return [
            Seat(
                number,
                next(ends),
                next(ends),
                next(ends),
                lifelines[number][0],
                self._stacks.descriptors[number],
                wakers[number][0],
            )
            for number in range(self.start.world_size)
        ]

    def serve_store(self) -> None:
        """Serve the store that the ranks meet at; a fresh interpreter imports torch meanwhile."""
        listener = self._descriptors[0]
        if "torch.distributed" in sys.modules:
            self._store = _store(listener, self.start.port)
        else:
            threading.Thread(target=self._serve_store_later, args=(listener,), daemon=True).start()

    def _serve_store_later(self, listener: int) -> None:
        try:
            self._store = _store(listener, self.start.port)
        except BaseException as error:  # noqa: BLE001 - the main thread must hear of it
            self._problem = error
            os.write(self._wake_write, b"\0")

    def watch(self) -> None:
        """Reap the ranks, pass on interrupts, and end everything when the kernel is gone."""
        watched = [self._control.fileno(), self._wake_read] + ([] if self._kernel is None else [self._kernel])
        while self._alive or self.expects_more():
            ready = system.wait_readable([*watched, *self.others_to_watch()], self._seconds_to_next_step())
            if self._problem is not None:
                raise self._problem
            if self._kernel in ready or self._is_orphaned() or not self._obey(ready):
                self.kill_all()
                watched = [self._wake_read]
            self.attend(ready)
            self._reap()
            self._look_for_failures()
            self._climb()
        system.remove_shared_memory(self._ladder.doomed)

    def expects_more(self) -> bool:
        """Tell whether ranks are still to come."""
        return False

    def others_to_watch(self) -> list[int]:
        """Give descriptors that ``attend`` wants to hear of."""
        return []

    def attend(self, ready: set[int]) -> None:
        """See to the descriptors of ``others_to_watch`` that can be read."""

    def _is_orphaned(self) -> bool:
        return self._parent_pid not in {None, os.getppid()}

    def fail(self, reason: str) -> None:
        """End every rank and tell the kernel what broke."""
        self.kill_all()
        self._report(SupervisorFailed(reason))

    def _report(self, message: object) -> bool:
        try:
            frames.send(self._control, message)
        except OSError:
            return False  # the kernel is gone, or has stopped listening; the ranks are ended either way
        return True

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
                self._interrupt(say=True)
            elif isinstance(order, RequestStop):
                for rank in self._alive.values():
                    self._flags.ask_to_stop(rank.number)
            elif isinstance(order, Kill):
                self.kill_all()
            elif isinstance(order, TellStacks):
                self._tell_stacks(order)
        return bool(data)

    def _seconds_to_next_step(self) -> float | None:
        waiting = self._ladder.seconds_to_next_step()
        if not self._ladder.begun:
            time_is_up_at = self.start.stop_at_seconds if self._running() else _NEVER
            next_at = min(self._interrupt_at, time_is_up_at)
            waiting = None if next_at == _NEVER else max(0.0, next_at - time.monotonic())
        if self._parent_pid is not None and self._kernel is None:
            waiting = 1.0 if waiting is None else min(waiting, 1.0)  # nothing wakes us when the kernel ends
        return waiting

    def _running(self) -> list[Rank]:
        """Give the ranks whose function has not ended."""
        return [rank for rank in self._alive.values() if not self._flags.is_over(rank.number)]

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
            self._gone.add(rank.number)
            system.kill_group(pid, signal.SIGKILL)  # what the rank has left running
            code = os.waitstatus_to_exitcode(status)
            told, peak = rank.number in self._ladder.told, used.ru_maxrss * system.BYTES_OF_MAXRSS
            self._report(RankExited(rank.number, code, time.monotonic(), told, self._ladder.begun_at, peak))
            if not self._flags.is_over(rank.number):
                self._begin_grace()
            elif self._flags.failed(rank.number):
                self._note_failure(rank)

    def _look_for_failures(self) -> None:
        """Begin the others' grace when a function has raised: the process may take its time to end."""
        for rank in self._alive.values():
            if self._flags.failed(rank.number):
                self._note_failure(rank)

    def _note_failure(self, rank: Rank) -> None:
        if rank.number not in self._failed:
            self._failed.add(rank.number)
            self._begin_grace()

    def _begin_grace(self) -> None:
        self._interrupt_at = min(self._interrupt_at, time.monotonic() + self.start.grace_seconds)

    def _climb(self) -> None:
        """Take the next step of ending ranks, if it is due."""
        now = time.monotonic()
        if self._ladder.begun:
            self._ladder.climb(list(self._alive.values()))
        elif now >= self.start.stop_at_seconds and self._running():
            self._interrupt(say=True, timed_out=True)
        elif now >= self._interrupt_at:
            self._interrupt()

    def _interrupt(self, *, say: bool = False, timed_out: bool = False) -> None:
        """Interrupt the ranks, unless they were; say to the kernel where they were."""
        if self._ladder.begun:
            return
        now = time.monotonic()
        begun = [rank for rank in self._running() if self._flags.listening(rank.number)]
        stacks = self._stacks.ask(_pids(begun)) if say else {}
        self._ladder.begin(self._alive.values())
        if say:
            self._report(Interrupted(now, stacks, timed_out))

    def _tell_stacks(self, order: TellStacks) -> None:
        ranks = list(self._alive.values())
        for rank in ranks:
            rank.tell(SAY_PROGRESS)  # the answer is there by the next look at the latest
        stacks = self._stacks.ask(_pids(ranks), all_threads=order.all_threads)
        used = {rank.number: computed(rank.pid) for rank in ranks}
        progress = {rank.number: self._flags.progress(rank.number) for rank in ranks}
        self._report(Stacks(order.number, stacks, used, progress))

    def kill_all(self) -> None:
        """End every rank now."""
        for rank in self._alive.values():
            self._ladder.kill(rank)


def _pids(ranks: Iterable[Rank]) -> dict[int, int]:
    return {rank.number: rank.pid for rank in ranks}


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
