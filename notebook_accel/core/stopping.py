"""What one rank knows and all have to act on: that the run should end, or that something has happened."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Literal

import psutil
import torch

from notebook_accel import environment
from notebook_accel.backends.base import Backend
from notebook_accel.errors import ConfigError

TimeLimit = float | Literal["platform"] | None
# What a session may take. Source: https://www.kaggle.com/docs/notebooks#technical-specifications
_KAGGLE_SECONDS = 12 * 3600.0
_KAGGLE_TPU_SECONDS = 9 * 3600.0
_MARGIN_SECONDS = 600.0  # to save and to return


def seconds_left(limit: TimeLimit) -> float | None:
    """Give how long a run may go on from now, None for as long as it likes.

    Args:
        limit: seconds, or "platform" for what the session has left, less ten minutes to save in.

    Raises:
        ConfigError: it is no number of seconds, or nothing is known of this platform.

    Example:
        >>> seconds_left(60.0)
        60.0
    """
    if limit is None:
        return None
    if limit == "platform":
        if environment.kaggle_run_type() is None:
            what = 'time_limit_seconds="platform", but how long a session lasts is known of Kaggle only'
            raise ConfigError(what, "give the seconds that the run may take")
        session = _KAGGLE_SECONDS if environment.pjrt_device() is None else _KAGGLE_TPU_SECONDS
        began = psutil.Process(1).create_time()  # of the container
        return session - _MARGIN_SECONDS - (time.time() - began)
    given: object = limit
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given < float("inf"):
        raise ConfigError(f"time_limit_seconds is {limit!r}", "give the seconds that the run may take, more than 0")
    return float(limit)


class StopRequest:
    """The request to end, as all ranks see it: somebody asked, the time is up, or the process was told to terminate.

    The ranks learn of it at different moments. One that stopped on its own would leave the others waiting for it in
    their next collective, so they all stop as soon as one of them has been asked.

    Args:
        asked: whether this rank was asked; None where nobody can ask.
        backend: the connection to the other ranks.
        limit_seconds: how long from now on until it is time to end; None for ever.
    """

    def __init__(self, asked: Callable[[], bool] | None, backend: Backend, limit_seconds: float | None = None) -> None:
        self._asked = asked
        self._backend = backend
        self._ends_at = float("inf") if limit_seconds is None else time.monotonic() + limit_seconds
        self._agreed = False
        self._listens = self._terminated = False

    def is_agreed(self) -> bool:
        """Give whether any rank has been asked; stays True. Collective: all ranks must call this."""
        if not self._agreed:  # the same on all ranks
            self._listen()
            asked = torch.tensor(int(self._is_asked()), dtype=torch.int32)
            self._agreed = bool(self._backend.all_reduce(asked, "max").item())
        return self._agreed

    def _is_asked(self) -> bool:
        return self._terminated or time.monotonic() >= self._ends_at or (self._asked is not None and self._asked())

    def _listen(self) -> None:
        """Take the next SIGTERM as a request, since this function looks for such; one after it ends the process.

        Where a launcher can ask, SIGTERM is its means to end a rank whose native code hears no Python.
        """
        if self._asked is not None or self._listens or threading.current_thread() is not threading.main_thread():
            return
        self._listens = True
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_terminate)

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def close(self) -> None:
        """Let SIGTERM be what it was; safe to call twice."""
        if self._listens and signal.getsignal(signal.SIGTERM) == self._on_terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Trigger:
    """A flag that any rank may set and that all ranks see.

    Args:
        backend: the connection to the other ranks.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._is_set = False

    def set(self) -> None:
        """Set it on this rank."""
        self._is_set = True

    def check(self) -> bool:
        """Give whether any rank has set it, and take it back. Collective: all ranks must call this."""
        mine, self._is_set = torch.tensor(int(self._is_set), dtype=torch.int32), False
        return bool(self._backend.all_reduce(mine, "max").item())
