"""Let processes that a rank starts afresh (DataLoader workers with the spawn or forkserver context) find the notebook.

They have a ``__main__`` of their own, in which the functions and classes of the notebook's cells are missing. These
travel by value, and are put where their children's answers are looked up by name. Forked workers need none of this.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

import cloudpickle

from notebook_accel.wire import pickling
from notebook_accel.wire.by_name import REBUILT, name_of

_SENT_BY_VALUE = (type, types.FunctionType, *REBUILT)


def send_main_by_value() -> None:
    """Make multiprocessing pickle what belongs to ``__main__`` by value. Once a rank, before it starts processes."""
    ForkingPickler.reducer_override = _reduce  # type: ignore[assignment,method-assign]  # pickle's hook


@contextmanager
def main_sent_by_value() -> Iterator[None]:
    """Do so for the duration of a block, in a process that is more than a rank."""
    missing = object()
    before = vars(ForkingPickler).get("reducer_override", missing)
    send_main_by_value()
    try:
        yield
    finally:
        if before is missing:
            del ForkingPickler.reducer_override
        else:
            ForkingPickler.reducer_override = before  # type: ignore[method-assign]  # as it was


def _reduce(_pickler: ForkingPickler, obj: object) -> Any:
    if isinstance(obj, _SENT_BY_VALUE) and getattr(obj, "__module__", None) == "__main__":
        return into_main, (pickling.dumps(obj), name_of(obj))
    return NotImplemented


def into_main(pickled: bytes, qualname: str) -> object:
    """Rebuild what belongs to the notebook and let ``__main__`` have it, unless it has something of that name."""
    main = sys.modules["__main__"]
    present = main.__dict__.get(qualname)
    if present is not None:
        return present
    obj: object = cloudpickle.loads(pickled)
    if "." not in qualname:
        setattr(main, qualname, obj)
    fill_classes(main)  # those that it uses came along
    return obj


def fill_classes(main: types.ModuleType) -> None:
    """Let ``__main__`` have the notebook's classes that travelled here, where objects of them are looked up by name."""
    for cls in pickling.dynamic_classes():
        if cls.__module__ == "__main__" and "." not in cls.__qualname__:
            main.__dict__.setdefault(cls.__name__, cls)
