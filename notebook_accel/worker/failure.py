"""Turn an exception of the user's function into a value that travels."""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from notebook_accel.wire.outcome import Failure
from notebook_accel.wire.pickling import ResultPickler

_PACKAGE_FOLDER = str(Path(__file__).resolve().parent.parent) + os.sep


def describe(error: BaseException, rank: int, kernel_classes: Sequence[type] = ()) -> Failure:
    """Describe ``error``, which the function raised just now.

    Args:
        error: what it raised.
        rank: where.
        kernel_classes: classes that came from the kernel.
    """
    return Failure(
        rank=rank,
        headline=_headline(error),
        hint=_hint(error),
        at_seconds=time.monotonic(),
        traceback=_format(error),
        exception_pickle=_pickled(error, kernel_classes),
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


def _pickled(error: BaseException, kernel_classes: Sequence[type]) -> bytes | None:
    try:
        data = bytes(ResultPickler(kernel_classes, in_band=True).parcel(error).body)
        pickle.loads(data)  # noqa: S301 - our own; a class with its own __init__ may pickle and yet not load
    except Exception:  # noqa: BLE001 - an exception may hold anything; its text travels in any case
        return None
    return data
