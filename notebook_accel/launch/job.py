"""The function and its arguments, pickled once for all ranks."""

from __future__ import annotations

import linecache
import os
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from notebook_accel.launch.advice import Refusals
from notebook_accel.launch.modules import travelling_by_value
from notebook_accel.launch.preflight import Preflight
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
        notices: what the user should know about it, a line each.
    """

    file: int
    sources: dict[str, list[str]]
    notices: tuple[str, ...] = ()


def make_job(call: Call, by_value: Sequence[str | types.ModuleType] = ()) -> Job:
    """Pickle the call into an anonymous file.

    Args:
        call: what every rank calls.
        by_value: modules whose functions and classes travel as they are here, instead of being imported by the ranks.

    Raises:
        PayloadError: something that the function uses cannot travel; it is named by its path from the function.
        ConfigError: ``by_value`` names what is no imported module.
    """
    reducers = (Refusals(),)
    preflight = Preflight(call.name, _roots(call), reducers)
    with travelling_by_value(by_value):
        pickler = JobPickler(reducers)
        try:
            packed = pickler.parcel((call.function, call.args, call.kwargs))
        except Exception as error:
            raise preflight.refusal(error) from error
        notices = preflight.large_captures(parcel.total_bytes(packed))
    sources = {name: linecache.getlines(name) for name in pickler.code_files if not os.path.exists(name)}  # noqa: PTH110 - Path raises for odd names
    file = parcel.anonymous_file("job")
    parcel.write(file, packed)
    return Job(file, sources, tuple(notices))


def _roots(call: Call) -> Iterator[tuple[str, object]]:
    yield call.name, call.function
    yield from ((f"args[{i}]", value) for i, value in enumerate(call.args))
    yield from ((f"kwargs[{name!r}]", value) for name, value in call.kwargs.items())
