"""Entry points of fresh interpreters: a supervisor and its ranks, where nothing may be forked."""

from __future__ import annotations

import functools
import os
import pickle
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from notebook_accel.wire import frames
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import supervisor, system
from notebook_accel.worker.births import execed
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import load_call


def supervisor_main(control_descriptor: int, kernel_pid: int) -> NoReturn:
    """Wait for the one run of this process, supervise it, and end."""
    supervise(control_descriptor, kernel_pid, lambda start: start)


def supervise(control_descriptor: int, kernel_pid: int, prepare: Callable[[StartRun], StartRun]) -> NoReturn:
    """Wait for the one run of this process, prepare and supervise it, and end.

    Args:
        control_descriptor: the socket to the kernel.
        kernel_pid: the kernel's process.
        prepare: gives the run as its ranks are to see it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_descriptor)
    kernel = system.open_process(kernel_pid)
    try:
        start, descriptors = frames.receive(control)
    except EOFError:
        os._exit(0)
    assert isinstance(start, StartRun)
    files = descriptors[1 + supervisor.DESCRIPTORS_A_RANK * start.world_size :]
    surroundings = supervisor.Surroundings(control, descriptors, kernel, kernel_pid)
    supervisor.run_to_end(
        lambda: supervisor.Supervisor(start, surroundings),
        lambda supervising: supervising.start_ranks(execed(prepare(start), files)),
    )


def rank_main(arguments: int) -> NoReturn:
    """Be one rank."""
    data = os.pread(arguments, os.fstat(arguments).st_size, 0)
    os.close(arguments)
    start, seat, files, flags_file = pickle.loads(data)  # noqa: S301 - written by our own supervisor
    for descriptor in [*seat.descriptors, *files, flags_file]:
        os.set_inheritable(descriptor, False)
    system.lead_group_until_closed(seat.lifeline)
    for descriptor in (1, 2):  # an import that fails is to be seen
        os.dup2(seat.output, descriptor)
    from notebook_accel.worker import rank  # noqa: PLC0415 - it imports torch, and the supervisor may end meanwhile

    flags = Flags.of_file(flags_file, start.world_size)
    os.close(flags_file)
    rank.main(start, seat, functools.partial(load_call, files), flags)
