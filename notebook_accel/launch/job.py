"""The function and its arguments, pickled once for all ranks."""

from __future__ import annotations

import inspect
import linecache
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from notebook_accel.errors import PayloadError
from notebook_accel.wire import parcel
from notebook_accel.wire.pickling import JobPickler


@dataclass(frozen=True)
class Call:
    """What every rank calls."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How the function is called in messages."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))


@dataclass(frozen=True)
class Job:
    """A call in a form that travels.

    Attributes:
        file: descriptor of the anonymous file that holds the pickle; the owner closes it.
        sources: lines of the code that lies in no file, by its file name.
    """

    file: int
    sources: dict[str, list[str]]


def make_job(call: Call) -> Job:
    """Pickle the call into an anonymous file.

    Raises:
        PayloadError: something that the function uses cannot travel.
    """
    pickler = JobPickler()
    try:
        packed = pickler.parcel((call.function, call.args, call.kwargs))
    except Exception as error:
        culprit = next(_culprits(call), call.name)
        what = f"{call.name} cannot be sent to the ranks because of {culprit}: {type(error).__name__}: {error}"
        raise PayloadError(what, "create it inside the function, where each rank makes its own") from error
    sources = {name: linecache.getlines(name) for name in pickler.code_files if not os.path.exists(name)}  # noqa: PTH110 - Path raises for odd names
    file = parcel.anonymous_file("job")
    parcel.write(file, packed)
    return Job(file, sources)


def _culprits(call: Call) -> Iterator[str]:
    """Name what cannot be pickled: an argument, or a variable that the function uses."""
    found = [(f"args[{i}]", value) for i, value in enumerate(call.args)]
    found += [(f"kwargs[{name!r}]", value) for name, value in call.kwargs.items()]
    try:
        used = inspect.getclosurevars(call.function)
        found += [(f"the variable {name!r}", value) for name, value in {**used.globals, **used.nonlocals}.items()]
    except (TypeError, ValueError):
        pass  # a callable object: its attributes travel with it
    for name, value in found:
        try:
            cloudpickle.dumps(value)
        except Exception:  # noqa: BLE001 - pickling runs the user's own code
            yield f"{name} ({type(value).__name__})"
