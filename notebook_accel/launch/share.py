"""``share``: copy an object once, for as many launches as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from notebook_accel.launch.job import Packing
from notebook_accel.wire.shared import Shared, keep

T = TypeVar("T")


def share(obj: T, name: str | None = None, *, by_value: Sequence[str] = ()) -> Shared[T]:
    """Copy an object into memory that every rank of every later launch reads without another copy.

    A function uses ``shared.value`` wherever it runs. It is a snapshot: what is changed here later does not reach it,
    and what a rank changes, that rank alone sees. The memory is given back by ``shared.free()``, at the end of a
    ``with`` block, when the last reference to the handle goes, or with the kernel.

    Args:
        obj: a dataset, a tensor, a model, a function: anything that could be an argument of a launched function.
        name: what to call it in messages; its type's name if left out.
        by_value: names of modules whose functions and classes travel as they are here, as in ``notebook_launcher``.

    Raises:
        PayloadError: something in it cannot travel.

    Example:
        >>> from notebook_accel import notebook_launcher, share
        >>> table = share(list(range(1000)))
        >>> result = notebook_launcher(lambda: sum(table.value), num_processes=1)
        notebook_accel: 1 CPU process
        >>> result.value
        499500
        >>> table.free()
    """
    name = name or str(getattr(obj, "__name__", type(obj).__name__))
    packing = Packing(name, {name: obj}, by_value)
    packed = packing.pack(obj)
    return keep(name, packed, packing.sources, packing.attachments.objects)
