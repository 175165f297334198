"""The supervisor of a run on XLA devices, whose ranks are started by ``torch_xla``'s xmp.spawn.

xmp.spawn blocks, so it runs in a thread of its own. The processes that it starts are children of this one, which reaps
and ends them as any other ranks. None takes its seat before all of them have their runtime: only then is it known
which rank each is.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import socket
import threading
from collections.abc import Sequence
from typing import NoReturn

from notebook_accel import environment
from notebook_accel.wire import frames
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import supervisor, system
from notebook_accel.worker.ladder import Rank
from notebook_accel.worker.meeting import Meeting
from notebook_accel.worker.seat import Seat
from notebook_accel.worker.supervisor import Supervisor, Surroundings
from notebook_accel.worker.xmp_process import (
    Born,
    PoolContext,
    PoolProcess,
    Ready,
    Seating,
    start_processes_with,
    take_seat,
)


def supervisor_main(control_descriptor: int, kernel_pid: int, start_method: str) -> NoReturn:
    """Wait for the one run of this process, supervise it, and end.

    Args:
        control_descriptor: the socket to the kernel.
        kernel_pid: the kernel's process.
        start_method: how xmp.spawn starts the ranks, "fork" or "spawn".
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    kernel = system.open_process(kernel_pid)
    try:
        start, descriptors = frames.receive(control)
    except EOFError:
        os._exit(0)
    assert isinstance(start, StartRun)
    environment.replace(start.environ)
    files = descriptors[1 + supervisor.DESCRIPTORS_A_RANK * start.world_size :]
    surroundings = Surroundings(control, descriptors, kernel, kernel_pid)
    supervisor.run_to_end(
        lambda: XmpSupervisor(start, surroundings, start_method, files), lambda started: started.start_xmp()
    )


class XmpSupervisor(Supervisor):
    """A supervisor whose ranks come one by one.

    Args:
        start: the run.
        surroundings: what it gets from whoever started it.
        start_method: "fork" or "spawn".
        files: descriptors of the call's parcel and its shared objects.
    """

    def __init__(self, start: StartRun, surroundings: Surroundings, start_method: str, files: Sequence[int]) -> None:
        super().__init__(start, surroundings)
        self._start_method = start_method
        self._files = list(files)
        self._meeting = Meeting()
        self._seats: list[Seat] = []
        self._births: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._connections: dict[int, socket.socket] = {}  # by process
        self._ready: dict[int, Ready] = {}  # by process
        self._begun = 0
        self._seated = False
        self._ending = False

    def start_xmp(self) -> None:
        """Let xmp.spawn start the processes; they take their seats in ``watch``."""
        self._seats = self.make_seats()
        threading.Thread(target=self._spawn, name="xmp", daemon=True).start()

    def _spawn(self) -> None:
        try:
            context = PoolContext(self._start_method, self._prepare, self._note_birth)
            start_processes_with(lambda _method: context)
            launcher = importlib.import_module("torch_xla.distributed.xla_multiprocessing")
            launcher.spawn(take_seat, nprocs=None, start_method=self._start_method)
        except BaseException as error:  # noqa: BLE001 - the main thread must hear of it
            self._problem = error
            self._wake()

    def _prepare(self, process: PoolProcess) -> None:
        if self._ending:
            raise InterruptedError("the run has been ended")
        self._begun += 1
        if self._begun > self.start.world_size:
            raise RuntimeError(f"torch_xla starts more than the {self.start.world_size} processes of the run")
        process.meeting_point = self._meeting.point
        process.strangers = self._all_descriptors if self._start_method == "fork" else None

    def _note_birth(self, pid: int) -> None:
        self._births.put(pid)
        self._wake()

    def _wake(self) -> None:
        os.write(self._wake_write, b"\0")

    def _all_descriptors(self) -> list[int]:
        own = {self._meeting.fileno(), self._flags_file, *self._files, *self.own_descriptors()}
        own |= {end for seat in self._seats for end in seat.descriptors}
        own |= {connection.fileno() for connection in self._connections.values()}
        return sorted(own)

    # ---- in the main thread, while the ranks come

    def others_to_watch(self) -> list[int]:
        """Give what to watch until all have their seats; see ``Supervisor``."""
        if self._seated:
            return []
        return [self._meeting.fileno(), *(c.fileno() for pid, c in self._connections.items() if pid not in self._ready)]

    def expects_more(self) -> bool:
        """Tell whether ranks are still to come; see ``Supervisor``."""
        return not (self._seated or self._ending or self._ladder.begun)

    def attend(self, ready: set[int]) -> None:
        """Take in who has come, and seat all when the last has; see ``Supervisor``."""
        self._ending = self._ending or self._ladder.begun
        while not self._births.empty():
            number = len(self._alive) + len(self._gone)
            pid = self._births.get()
            # Until the runtime says which rank it is, it has the next one's number.
            self._alive[pid] = Rank(number, pid, self.wakers[number])
        if self._seated:
            return
        if self._meeting.fileno() in ready:
            self._take_newcomers()
        for pid, connection in list(self._connections.items()):
            if connection.fileno() in ready and pid not in self._ready:
                self._hear(pid, connection)
        if len(self._ready) == self.start.world_size and not self._ending and not self._gone:
            self._seat_all()

    def kill_all(self) -> None:
        """End every rank now, also those that are still to come."""
        self._ending = True
        super().kill_all()

    def _take_newcomers(self) -> None:
        while (newcomer := self._meeting.welcome()) is not None:
            assert isinstance(newcomer.message, Born)
            seat = self._seats[len(self._connections)]
            self._connections[newcomer.message.pid] = newcomer.connection
            try:
                frames.send(newcomer.connection, None, [seat.output, seat.lifeline])
            except OSError:
                continue  # it has ended, which is seen when it is reaped

    def _hear(self, pid: int, connection: socket.socket) -> None:
        try:
            message, _ = frames.receive(connection)
        except (OSError, EOFError):
            connection.close()
            del self._connections[pid]
            return
        assert isinstance(message, Ready)
        self._check(message)
        self._ready[pid] = message

    def _check(self, ready: Ready) -> None:
        if ready.devices > 1:
            what = f"one process has {ready.devices} XLA devices; only one device a process is supported"
            raise RuntimeError(f"{what} (TPU v2 and v3 have two, CPU_NUM_DEVICES sets more)")
        if ready.world_size != self.start.world_size:
            raise RuntimeError(f"the XLA runtime has {ready.world_size} devices, not {self.start.world_size}")

    def _seat_all(self) -> None:
        by_rank = {ready.ordinal: pid for pid, ready in self._ready.items()}
        if sorted(by_rank) != list(range(self.start.world_size)):
            raise RuntimeError(f"the XLA runtime numbers {self.start.world_size} processes {sorted(by_rank)}")
        self.serve_store()
        for number, pid in by_rank.items():
            self._alive[pid] = Rank(number, pid, self.wakers[number])
            with self._connections[pid] as connection:
                descriptors = [self._flags_file, *self._seats[number].descriptors, *self._files]
                try:
                    frames.send(connection, Seating(self.start, number), descriptors)
                except OSError:
                    continue  # it has ended, which is seen when it is reaped
        theirs = {end for seat in self._seats for end in seat.descriptors if end != seat.stack}
        system.close_all(theirs | set(self._files))
        self._meeting.close()
        self._seated = True
