"""How a rank ended: the user's failure is a value here, never an exception of the machinery."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

from notebook_accel.traces import Trace


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why one rank failed.

    Attributes:
        rank: which rank.
        headline: one line: the exception's type and text, or the signal that killed the rank.
        hint: what to do next.
        at_seconds: when, on the machine's monotonic clock.
        traceback: the rank's formatted traceback, empty for a killed rank.
        exception_pickle: the exception object, None where it cannot be pickled.
        signal_name: for example "SIGKILL" when a signal ended the rank.
        chain: the exception and what led to it as data, the exception itself last.
        knock_on: whether it is what a rank sees when another one has gone, so never the cause if there is another.
    """

    rank: int
    headline: str
    hint: str
    at_seconds: float
    traceback: str = ""
    exception_pickle: bytes | None = None
    signal_name: str | None = None
    chain: tuple[Trace, ...] = ()
    knock_on: bool = False

    def load_exception(self) -> BaseException | None:
        """Rebuild the exception object, None where that is impossible."""
        if self.exception_pickle is None:
            return None
        try:
            error = pickle.loads(self.exception_pickle)  # noqa: S301 - written by our own rank
        except Exception:  # noqa: BLE001 - user classes may raise anything while they are rebuilt
            return None
        return error if isinstance(error, BaseException) else None


@dataclass(frozen=True)
class Returned:
    """The function returned; the value lies in the rank's result file.

    Attributes:
        preview: a short text of the value, so that showing it needs no decoding.
        exited: whether the function left by ``sys.exit(0)``, which counts as a return of None.
    """

    preview: str
    exited: bool = False


@dataclass(frozen=True)
class Unreturnable:
    """The function returned a value that cannot be sent back."""

    reason: str


@dataclass(frozen=True)
class Withheld:
    """The function returned a value that nobody asked for."""


@dataclass(frozen=True)
class Raised:
    """The function raised."""

    failure: Failure


Outcome = Returned | Unreturnable | Withheld | Raised
