"""Turn an exception of the user's function into a value that travels."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from notebook_accel import traces
from notebook_accel.errors import AccelError
from notebook_accel.origins import is_launchers
from notebook_accel.wire.outcome import Failure
from notebook_accel.wire.pickling import Reducer, ResultPickler, bare_exception
from notebook_accel.worker import kinds

_LONGEST_HEADLINE = 300


def describe(error: BaseException, rank: int, kernel_classes: Sequence[type] = ()) -> Failure:
    """Describe ``error``, which the function raised just now.

    Args:
        error: what it raised.
        rank: where.
        kernel_classes: classes that came from the kernel.
    """
    at_seconds = time.monotonic()
    chain = traces.chain_of(error)
    shortage = kinds.shortage(error, _text(error))
    headline, hint = _headline(error), _hint(error)
    if shortage is not None:
        headline, hint = f"{type(error).__name__}: {shortage[0]}", shortage[1]
    return Failure(
        rank=rank,
        headline=headline[:_LONGEST_HEADLINE],
        hint=hint,
        at_seconds=at_seconds,
        traceback=_format(error),
        exception_pickle=_pickled(error, kernel_classes),
        chain=chain,
        knock_on=kinds.follows_anothers_end(error, chain),
    )


def call_to_its_end(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[object, bool]:
    """Call the function; give its value and whether it left by ``sys.exit(0)``, which ends a process well."""
    try:
        return function(*args, **kwargs), False
    except SystemExit as leaving:
        if leaving.code is not None and leaving.code != 0:
            raise
    return None, True


def _headline(error: BaseException) -> str:
    found = traces.carried(error)
    if found is not None:
        own, where = found
        return f"{own.splitlines()[0]} ({where})"
    lines = _text(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise
        return "(its text cannot be shown)"


def _hint(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "return from the function instead of exiting the process; only sys.exit(0) counts as a return"
    if isinstance(error, AccelError):
        return error.hint
    if isinstance(error, KeyboardInterrupt):
        return "the function raised it itself; nobody interrupted the run"
    return "mend that line and run the cell again; the kernel needs no restart"


def _format(error: BaseException) -> str:
    """Format the traceback without the launcher's frames above the function."""
    frames = error.__traceback__
    while frames is not None and is_launchers(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise
        return "".join(traceback.format_tb(frames)) + _headline(error)


def _pickled(error: BaseException, kernel_classes: Sequence[type]) -> bytes | None:
    """Pickle an exception; one that does not come back the same is taken apart without its ``__init__``."""
    return _pickled_with(error, kernel_classes, ()) or _pickled_with(error, kernel_classes, (bare_exception,))


def _pickled_with(error: BaseException, kernel_classes: Sequence[type], reducers: Sequence[Reducer]) -> bytes | None:
    try:
        data = bytes(ResultPickler(kernel_classes, reducers, in_band=True).parcel(error).body)
        copy = pickle.loads(data)  # noqa: S301 - our own; a class with its own __init__ may pickle and yet not load
    except Exception:  # noqa: BLE001 - an exception may hold anything; its text travels in any case
        return None
    return data if type(copy) is type(error) and _text(copy) == _text(error) else None
