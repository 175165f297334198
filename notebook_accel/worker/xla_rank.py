"""What a rank on XLA devices has to do beside what every rank does."""

from __future__ import annotations

import atexit
import functools
import importlib
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from notebook_accel import environment
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import compilations, rank
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import Call, Seat


def main(start: StartRun, seat: Seat, load: Callable[[], Call], flags: Flags) -> NoReturn:
    """Be one rank of the run, in a process that has the XLA runtime started.

    Args:
        start: the run.
        seat: this rank's place in it.
        load: gives the call.
        flags: what it and its supervisor know of each other.
    """
    # torch_xla has written into the environment which chip this process has, and reads it there later.
    start = replace(start, environ=environment.current())
    rank.main(start, seat, functools.partial(_prepare_and_load, start, seat.number, load), flags)


def _prepare_and_load(start: StartRun, number: int, load: Callable[[], Call]) -> Call:
    compilations.keep(number)
    torch_xla = importlib.import_module("torch_xla")
    atexit.register(torch_xla._XLAC._prepare_to_exit)  # noqa: SLF001 - the rank has forgotten its exit handlers
    # torch.manual_seed does not reach XLA's generator, and without a seed every launch would draw the same numbers.
    torch_xla.manual_seed(secrets.randbits(32) if start.seed is None else start.seed)
    return load()
