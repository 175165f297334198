"""Turn an exception of the user's function into a value that travels."""

from __future__ import annotations

import time
import traceback
from pathlib import Path

import cloudpickle

from notebook_accel.wire.outcome import Failure

_PACKAGE_FOLDER = str(Path(__file__).resolve().parent.parent)


def describe(error: BaseException, rank: int) -> Failure:
    """Describe ``error``, which the function raised just now."""
    return Failure(
        rank=rank,
        headline=_headline(error),
        hint=_hint(error),
        at_seconds=time.monotonic(),
        traceback=_format(error),
        exception_pickle=_pickled(error),
    )


def _headline(error: BaseException) -> str:
    text = _first_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _first_line(error: BaseException) -> str:
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - a user's __str__ may raise
        return "(its text cannot be shown)"
    return lines[0] if lines else ""


def _hint(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "return from the function instead of exiting the process"
    return "the last lines of the traceback above are the function's own; mend it and run the cell again"


def _format(error: BaseException) -> str:
    """Format the traceback without the launcher's frames above the function."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE_FOLDER):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise
        return "".join(traceback.format_tb(frames)) + _headline(error)


def _pickled(error: BaseException) -> bytes | None:
    try:
        data = bytes(cloudpickle.dumps(error))
        cloudpickle.loads(data)  # a class with its own __init__ may pickle and yet not load
    except Exception:  # noqa: BLE001 - an exception may hold anything; its text travels in any case
        return None
    return data
