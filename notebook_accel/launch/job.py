"""The function and its arguments, pickled once for all ranks."""

from __future__ import annotations

import linecache
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from notebook_accel.launch.advice import Refusals
from notebook_accel.launch.modules import travelling_by_value
from notebook_accel.launch.preflight import Preflight
from notebook_accel.wire import parcel
from notebook_accel.wire.parcel import Parcel
from notebook_accel.wire.pickling import JobPickler
from notebook_accel.wire.shared import Attachments, Shared

_FREED_AT_ONCE_BYTES = 16 << 20


@dataclass(frozen=True)
class Call:
    """What every rank calls; the function may be shared."""

    function: Callable[..., Any] | Shared[Callable[..., Any]]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How the function is called in messages."""
        if isinstance(self.function, Shared):
            return self.function.name
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def target(self) -> Callable[..., Any]:
        """The function itself, read from its shared copy where it has one."""
        return self.function.value if isinstance(self.function, Shared) else self.function


@dataclass(frozen=True)
class Job:
    """A call in the form in which it reaches the ranks.

    Attributes:
        call: the call itself.
        files: descriptors of the file that holds its pickle and of the shared objects that it names; none where the
            call is not pickled.
        sources: lines of the code that lies in no file, by its file name.
        notices: what the user should know about it, a line each.
    """

    call: Call
    files: tuple[int, ...] = ()
    sources: dict[str, list[str]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def close(self) -> None:
        """Close the files, large ones in the background: to give back memory takes 0.2 s for each GB."""
        if sum(os.fstat(file).st_size for file in self.files) < _FREED_AT_ONCE_BYTES:
            self._close()
        else:
            threading.Thread(target=self._close, name="notebook_accel-freeing", daemon=True).start()

    def _close(self) -> None:
        for file in self.files:
            os.close(file)


def make_job(call: Call, by_value: Sequence[str] = ()) -> Job:
    """Pickle the call into an anonymous file.

    Args:
        call: what every rank calls.
        by_value: modules whose functions and classes travel as they are here, instead of being imported by the ranks.

    Raises:
        PayloadError: something that the function uses cannot travel; it is named by its path from the function.
        ConfigError: ``by_value`` names what is no imported module.
    """
    roots = {call.name: call.function}
    roots |= {f"args[{i}]": value for i, value in enumerate(call.args)}
    roots |= {f"kwargs[{name!r}]": value for name, value in call.kwargs.items()}
    packing = Packing(call.name, roots, by_value)
    packed = packing.pack((call.function, call.args, call.kwargs))
    sources = packing.sources
    with ExitStack() as undo:
        file = parcel.anonymous_file("job")
        undo.callback(os.close, file)
        parcel.write(file, packed)
        files = [file]
        for shared in packing.attachments.objects:
            files.append(os.dup(shared.file))
            undo.callback(os.close, files[-1])
            sources.update(shared.sources)
        undo.pop_all()
    return Job(call, tuple(files), sources, packing.notices)


class Packing:
    """Pickles one value, and explains what cannot be pickled.

    Args:
        name: how the whole is called in messages.
        roots: what it consists of, by the name with which its paths begin.
        by_value: modules whose functions and classes travel as they are here.

    Attributes:
        attachments: the shared objects in it, whose files travel beside it.
        sources: lines of its code that lies in no file, by its file name.
        notices: what the user should know about it, a line each.
    """

    def __init__(self, name: str, roots: Mapping[str, object], by_value: Sequence[str] = ()) -> None:
        self.attachments = Attachments()
        self.sources: dict[str, list[str]] = {}
        self.notices: tuple[str, ...] = ()
        self._reducers = (Refusals(), self.attachments)
        self._preflight = Preflight(name, roots.items(), self._reducers)
        self._by_value = by_value

    def pack(self, value: object) -> Parcel:
        """Pickle the value.

        Raises:
            PayloadError: something in it cannot travel; it is named by its path.
            ConfigError: ``by_value`` names what is no imported module.
        """
        with travelling_by_value(self._by_value):
            pickler = JobPickler(self._reducers)
            try:
                packed = pickler.parcel(value)
            except Exception as error:
                raise self._preflight.refusal(error) from error
            self.notices = tuple(self._preflight.large_captures(parcel.total_bytes(packed)))
        code_files = pickler.code_files
        self.sources = {file: linecache.getlines(file) for file in code_files if not os.path.exists(file)}  # noqa: PTH110 - Path raises for odd names
        return packed
