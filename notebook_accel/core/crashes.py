"""Why a worker of a ``DataLoader`` is gone."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any

from notebook_accel.errors import WorkerDied

_SIGN = "DataLoader worker"
_PATIENCE_SECONDS = 1.0


def worker_crash(error: Exception, iterator: Any, rank: int) -> WorkerDied | None:
    """Give an error that says which worker ended how, None where that is not what happened.

    Args:
        error: what the loader raised: torch's own words, or that what the worker was sending broke off.
        iterator: its iterator.
        rank: this rank.
    """
    while True:
        try:
            return _crash_of(error, iterator, rank)
        except RuntimeError as told:  # torch's signal handler says it at whatever line this process is, once a worker
            if _SIGN not in str(told):
                raise
            error = told


def _crash_of(error: Exception, iterator: Any, rank: int) -> WorkerDied | None:
    if _SIGN not in str(error) and not isinstance(error, (OSError, EOFError)):
        return None
    workers = list(enumerate(getattr(iterator, "_workers", ())))
    if workers and isinstance(error, (ConnectionError, EOFError)):
        _wait_for_any([worker for _, worker in workers])
    dead = [(number, worker.exitcode) for number, worker in workers if worker.exitcode not in (None, 0)]
    if not dead:
        return None
    number, code = dead[0]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    hint = "look at what the dataset does there; with num_workers=0 it runs in the rank itself"
    if code == -signal.SIGKILL:
        hint = "memory may have run out: use fewer workers, a smaller prefetch_factor or smaller batches"
    elif code == -signal.SIGBUS:
        hint = "shared memory may have run out: use fewer workers, or enlarge /dev/shm"
    return WorkerDied(f"rank {rank}: worker {number} of {len(workers)} of its DataLoader {how}", hint)


def _wait_for_any(workers: Sequence[Any]) -> None:
    """Wait until one has ended, but not for long.

    A process that is killed closes its files, its sentinel among them, a moment before its parent can see its end.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    connection.wait([worker.sentinel for worker in workers], _PATIENCE_SECONDS)
    while not [worker for worker in workers if worker.exitcode is not None] and time.monotonic() < deadline:
        time.sleep(0.001)
