"""Cloudpickle in both directions, with the two things a notebook needs on top.

Towards the ranks the files that the code came from are noted, so that its source can travel with it.
On the way back a class that came from the kernel is named, not sent: cloudpickle alone would send a copy
and write the copy's methods over those of the kernel's own class, which then no longer see the notebook's globals.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as _internals

from notebook_accel.wire.by_name import NamedObjects
from notebook_accel.wire.parcel import Parcel, as_buffers
from notebook_accel.wire.tensors import StorageReducer, releasing_sparse_tensors

Reducer = Callable[[object], Any]  # gives a reduction, or NotImplemented to leave the object to cloudpickle
_IN_BAND_BYTES = 4096
_LARGEST_COPY_BYTES = 1 << 20  # a class may drag a large global along


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """A cloudpickle pickler that keeps large buffers out of the stream, and code's file name in it.

    Args:
        reducers: what becomes of objects that are not classes; the first one that knows an object decides.
        in_band: keep even large buffers in the stream.
        same_main: the other side has the names of this process's ``__main__``.
    """

    def __init__(self, reducers: Iterable[Reducer] = (), *, in_band: bool = False, same_main: bool = False) -> None:
        self.stream = io.BytesIO()
        self.large_buffers: list[pickle.PickleBuffer] = []
        self._reducers = tuple(reducers)
        self._in_band = in_band
        super().__init__(self.stream, protocol=5, buffer_callback=self._keep_out)
        self._named_objects = NamedObjects(self.dispatch_table, same_main=same_main)

    def _keep_out(self, buffer: pickle.PickleBuffer) -> bool:
        if self._in_band or buffer.raw().nbytes < _IN_BAND_BYTES:
            return True
        self.large_buffers.append(buffer)
        return False

    def reducer_override(self, obj: object) -> Any:
        """Ask the reducers, and keep the name of the file that code came from: tracebacks find its source by it."""
        if not isinstance(obj, type):
            for reduce in self._reducers:
                reduction = reduce(obj)
                if reduction is not NotImplemented:
                    return reduction
        if isinstance(obj, types.CodeType):
            rebuild, parts = self.dispatch_table[types.CodeType](obj)
            return code_of_file, (rebuild, parts, obj.co_filename)
        reduction = super().reducer_override(obj)
        return self._named_objects(obj) if reduction is NotImplemented else reduction

    def parcel(self, value: object) -> Parcel:
        """Pickle one value."""
        self.dump(value)
        return Parcel(self.stream.getbuffer(), as_buffers(self.large_buffers))


class JobPickler(_Pickler):
    """Pickles what goes to the ranks and notes the files its code came from.

    Args:
        reducers: how objects are changed on their way.

    Raises:
        ForeignDeviceError: (when it pickles) a tensor lies on a device, which every rank would open.
    """

    def __init__(self, reducers: Iterable[Reducer] = ()) -> None:
        super().__init__((*reducers, StorageReducer()))
        self.code_files: set[str] = set()

    def reducer_override(self, obj: object) -> Any:
        """Note where code comes from, then let cloudpickle decide."""
        if isinstance(obj, types.CodeType):
            self.code_files.add(obj.co_filename)
        return super().reducer_override(obj)


class ResultPickler(_Pickler):
    """Pickles what a rank returns; tensors come to the CPU, as the kernel must not open the ranks' devices.

    Args:
        kernel_classes: classes that came from the kernel, by identity.
        reducers: how objects are changed on their way.
        in_band: keep even large buffers in the stream.
    """

    def __init__(
        self, kernel_classes: Iterable[type], reducers: Iterable[Reducer] = (), *, in_band: bool = False
    ) -> None:
        super().__init__((*reducers, StorageReducer(to_cpu=True)), in_band=in_band, same_main=True)
        self._kernel_classes = {id(cls): cls for cls in kernel_classes}

    def reducer_override(self, obj: object) -> Any:
        """Name the kernel's classes, leave the rest to the reducers and to cloudpickle."""
        if isinstance(obj, type) and id(obj) in self._kernel_classes:
            return kernel_class, (_tracker_id(obj), obj.__name__, _copy_of(obj))
        return super().reducer_override(obj)


def bare_exception(obj: object) -> Any:
    """Reduce an exception to its class, arguments and attributes: its ``__init__`` may want other arguments."""
    if not isinstance(obj, BaseException):
        return NotImplemented
    _, args, *_ = _pythons_own(type(obj)).__reduce__(
        obj
    )  # not a __reduce__ of its own; an OSError's file name is there
    return exception_without_init, (type(obj), args, dict(obj.__dict__))


def _pythons_own(cls: type[BaseException]) -> Any:
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def exception_without_init(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Rebuild an exception as it was, without calling its ``__init__``."""
    error = cls.__new__(cls, *args)
    _pythons_own(cls).__init__(error, *args)  # an OSError's number and text come from there
    error.__dict__.update(state)
    return error


def code_of_file(rebuild: Callable[..., types.CodeType], parts: tuple[Any, ...], filename: str) -> types.CodeType:
    """Rebuild code as cloudpickle does, which names no file."""
    return rebuild(*parts).replace(co_filename=filename)


def _copy_of(cls: type) -> bytes:
    try:
        copy = dumps(cls)
    except Exception:  # noqa: BLE001 - the copy only matters if the kernel drops its class during the run
        return b""
    return copy if len(copy) <= _LARGEST_COPY_BYTES else b""


def _tracker_id(cls: type) -> str:
    return str(_internals._get_or_create_tracker_id(cls))  # noqa: SLF001 - no public way to ask


def kernel_class(tracker_id: str, name: str, copy: bytes) -> type:
    """Find the kernel's own class, or rebuild it from its copy if the kernel has dropped it meanwhile."""
    found = _internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)  # noqa: SLF001 - no public way to ask
    if isinstance(found, type) and found.__name__ == name:
        return found
    if not copy:
        raise pickle.UnpicklingError(f"class {name} is gone from the notebook and could not travel by value")
    rebuilt: type = pickle.loads(copy)  # noqa: S301 - written by our own rank
    return rebuilt


def track_classes(classes: Iterable[type]) -> None:
    """Let classes of the notebook be recognised when a fork of this process returns an instance."""
    for cls in classes:
        if cls.__module__ == "__main__":
            _tracker_id(cls)


def dynamic_classes() -> list[type]:
    """Give the classes that cloudpickle has rebuilt or sent by value in this process."""
    return list(_internals._DYNAMIC_CLASS_TRACKER_BY_CLASS)  # noqa: SLF001 - no public way to ask


def dumps(obj: object) -> bytes:
    """Pickle a function, a class or the like by value, all of it in one piece."""
    return bytes(_Pickler(in_band=True).parcel(obj).body)


def loads(parcel: Parcel) -> Any:
    """Rebuild the value of a parcel."""
    with releasing_sparse_tensors():
        return pickle.loads(parcel.body, buffers=parcel.buffers)  # noqa: S301 - written by our own processes
