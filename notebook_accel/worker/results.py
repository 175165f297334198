"""How a rank's value is changed on its way to the kernel, which may have no GPU and runs no ranks."""

from __future__ import annotations

import reprlib
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from notebook_accel.core.precision import unwrap_forward
from notebook_accel.wire import parcel
from notebook_accel.wire.outcome import Returned, Unreturnable
from notebook_accel.wire.pickling import ResultPickler


def send_value(
    value: object, result_file: int, kernel_classes: list[type], *, exited: bool = False
) -> Returned | Unreturnable:
    """Write ``value`` into the rank's result file, or say why it cannot be sent.

    Args:
        value: what the function returned.
        result_file: where to.
        kernel_classes: classes that came from the kernel.
        exited: whether the function did not return but exited well.
    """
    try:
        pickled = ResultPickler(kernel_classes, (_without_wrapper,)).parcel(value)
        parcel.write(result_file, pickled)
    except Exception as error:  # noqa: BLE001 - pickling runs user code
        return Unreturnable(f"a value of type {type(value).__name__} cannot be sent back: {error}")
    return Returned(preview(value), exited)


def _without_wrapper(obj: object) -> Any:
    """Send the model that a prepared model wraps: process groups and autocast stay in their process."""
    if not isinstance(obj, torch.nn.Module):
        return NotImplemented
    unwrap_forward(obj)  # in place: the function has returned, nobody computes with it any more
    return (_same, (obj.module,)) if isinstance(obj, DistributedDataParallel) else NotImplemented


def _same(obj: object) -> object:
    return obj


class _Preview(reprlib.Repr):
    """A short text of a value, made without a text of all of it."""

    def repr_bytes(self, value: bytes, _level: int) -> str:
        return f"{value[:20]!r}... ({len(value):,} bytes)" if len(value) > 20 else repr(value)  # noqa: PLR2004

    repr_bytearray = repr_bytes


def preview(value: object) -> str:
    """Give one line of at most 200 characters."""
    shortener = _Preview()
    shortener.maxstring = shortener.maxother = 120
    shortener.maxdict = shortener.maxlist = shortener.maxtuple = 8
    try:
        text = " ".join(shortener.repr(value).split())
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= 200 else text[:197] + "..."  # noqa: PLR2004
