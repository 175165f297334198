"""The processes that ``torch_xla``'s xmp.spawn starts, from their first line to their seat among the ranks.

xmp.spawn runs a pool of processes that calls the function in a thread of each, hears of a failure only when all have
returned, and ends the others when one has died. Here the pool may start processes, and no more: it is not told of
their end, and the function runs in the main thread, where interrupts are heard.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import multiprocessing.context
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import popen_fork, popen_spawn_posix
from types import SimpleNamespace, TracebackType
from typing import Any, NoReturn

from notebook_accel.wire import frames
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import system
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.meeting import MeetingPoint
from notebook_accel.worker.seat import Call, Seat, load_call

_GIVEN_UP = 70


@dataclass(frozen=True)
class Born:
    """A process to its supervisor: it lives.

    Attributes:
        pid: the process.
    """

    pid: int


@dataclass(frozen=True)
class Ready:
    """A process to its supervisor: the XLA runtime runs in it.

    Attributes:
        ordinal: its number, as the runtime counts.
        world_size: of so many.
        devices: number of devices that it drives.
    """

    ordinal: int
    world_size: int
    devices: int


@dataclass(frozen=True)
class Seating:
    """The supervisor to a process: take this seat; its descriptors, those of the call and the flags' come along.

    Attributes:
        start: the run.
        number: the rank.
    """

    start: StartRun
    number: int


class PoolProcess(multiprocessing.context.ForkProcess):
    """One process of the pool.

    Attributes:
        meeting_point: where its supervisor is.
        strangers: gives the descriptors that a fork of the supervisor should close.
        connection: the socket to the supervisor, in the process itself.
    """

    meeting_point: MeetingPoint
    strangers: Callable[[], Iterable[int]] | None
    connection: socket.socket

    @functools.cached_property
    def sentinel(self) -> int:
        """Give a descriptor that never says that the process has ended: the pool would end the others."""
        read_end, _ = os.pipe()  # the other end stays open as long as the supervisor lives
        return read_end

    def run(self) -> None:
        """Be the process: come to the supervisor, then serve the pool, which calls ``take_seat``."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # nothing here is the user's yet: an interrupt may simply end it
        if self.strangers is not None:
            system.close_all(self.strangers())
            start_processes_with(multiprocessing.get_context)  # those that the user's code starts are its own
        try:
            self.connection = self.meeting_point.connect()
            frames.send(self.connection, Born(os.getpid()))
            _, (output, lifeline) = frames.receive(self.connection)
        except (OSError, EOFError):  # the supervisor has gone
            os._exit(_GIVEN_UP)
        system.lead_group_until_closed(lifeline)
        for descriptor in (1, 2):  # what fails from here on is to be seen
            os.dup2(output, descriptor)
        os.close(output)
        threading.current_thread().name = "MainThread"  # the fork of another thread
        call_in_main_thread()
        super().run()


class SpawnedProcess(PoolProcess):
    """The same, started as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name
        return _SpawnedPopen(process)


class ForkedProcess(PoolProcess):
    """The same, forked."""

    @staticmethod
    def _Popen(process: Any) -> Any:  # noqa: N802 - multiprocessing's name
        return _ForkedPopen(process)


class _ForkedPopen(popen_fork.Popen):
    def poll(self, _flag: int = 0) -> int | None:
        """Reap nothing: the supervisor does."""
        return None


class _SpawnedPopen(popen_spawn_posix.Popen):
    def poll(self, _flag: int = 0) -> int | None:
        """Reap nothing: the supervisor does."""
        return None


class PoolContext(multiprocessing.context.BaseContext):
    """What the pool makes its processes with.

    Args:
        start_method: "fork" or "spawn".
        prepare: called with each process before it is started.
        started: called with each process after that.
    """

    def __init__(
        self, start_method: str, prepare: Callable[[PoolProcess], None], started: Callable[[int], None]
    ) -> None:
        self._name = start_method
        self._kind = {"fork": ForkedProcess, "spawn": SpawnedProcess}[start_method]
        self._prepare = prepare
        self._started = started

    def get_start_method(self, allow_none: bool = False) -> str:
        """Give the start method's name."""
        del allow_none
        return self._name

    def get_context(self, method: str | None = None) -> Any:
        """Give this context: there is no other here."""
        del method
        return self

    def Process(self, *args: Any, **kwargs: Any) -> PoolProcess:  # noqa: N802 - multiprocessing's name
        """Make a process whose start is noted."""
        process: PoolProcess = self._kind(*args, **kwargs)
        self._prepare(process)
        start = process.start

        def noted_start() -> None:
            vars(process).pop("start")  # it would travel with the process
            start()
            assert process.pid is not None
            self._started(process.pid)

        vars(process)["start"] = noted_start  # the pool calls it once
        return process


def start_processes_with(get_context: Callable[[str], Any]) -> None:
    """Let torch's processes be made with what ``get_context`` gives for a start method."""
    vars(importlib.import_module("torch.multiprocessing"))["get_context"] = get_context


def call_in_main_thread() -> None:
    """Let torch_xla call the function where it is, not in a thread: interrupts are heard in the main thread only.

    torch_xla has one thread for each device of a process. All it needs of it is that it has a default device, and
    with one device that is the main thread's as well.
    """
    runner: Any = importlib.import_module("torch_xla._internal.pjrt")
    futures = runner.concurrent.futures
    runner.concurrent = SimpleNamespace(
        futures=SimpleNamespace(ThreadPoolExecutor=InPlace, ProcessPoolExecutor=futures.ProcessPoolExecutor)
    )


class InPlace:
    """An executor that calls at once.

    Args:
        max_workers: of no meaning.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        del max_workers

    def __enter__(self) -> InPlace:  # noqa: PYI034 - Python 3.10 has no Self
        """Give itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: everything was done by then."""

    def map(self, function: Callable[[Any], Any], devices: Iterable[Any]) -> Iterator[Any]:
        """Call the function for the first device; more than one is refused in ``take_seat``."""
        return iter([function(device) for device in list(devices)[:1]])


def take_seat(ordinal: int) -> NoReturn:
    """Be a rank: what xmp.spawn calls in each process, with the runtime started."""
    process = multiprocessing.current_process()
    assert isinstance(process, PoolProcess)
    runtime = importlib.import_module("torch_xla.runtime")
    try:
        ready = Ready(ordinal, runtime.world_size(), runtime.addressable_device_count())
        frames.send(process.connection, ready)
        seating, descriptors = frames.receive(process.connection)
    except (OSError, EOFError):  # the run has ended before it began
        os._exit(_GIVEN_UP)
    process.connection.close()
    assert isinstance(seating, Seating)
    from notebook_accel.worker import xla_rank  # noqa: PLC0415 - it brings torch

    flags_file, *others = descriptors
    seat = Seat(seating.number, *others[:6])
    flags = Flags.of_file(flags_file, seating.start.world_size)
    os.close(flags_file)
    xla_rank.main(seating.start, seat, functools.partial(_load, others[6:]), flags)


def _load(files: list[int]) -> Call:
    return load_call(files)
