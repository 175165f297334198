"""An object that is copied once and read by any number of launches: its parcel stays in a file, a handle travels."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from notebook_accel.errors import PayloadError
from notebook_accel.wire import parcel, pickling
from notebook_accel.wire.parcel import Parcel
from notebook_accel.wire.tensors import releasing_sparse_tensors

T = TypeVar("T")


class Shared(Generic[T]):
    """A snapshot of an object, for functions to read through ``.value``, here and in every rank.

    Made by ``share``. Whoever reads it maps the same memory copy-on-write: what a reader changes, it alone sees.

    Args:
        name: what the object is called in messages.
        file: descriptor of the file that holds its parcel; it is closed when this handle is freed or collected.
        sources: lines of its code that lies in no file, by its file name.
        parts: the shared objects that it holds itself.

    Attributes:
        name: what the object is called in messages.
        parts: the shared objects that it holds itself.
        sources: lines of its code that lies in no file, by its file name.
        size_bytes: the memory that it takes, once for all readers.

    Example:
        >>> from notebook_accel import share
        >>> share([1, 2, 3]).value
        [1, 2, 3]
    """

    def __init__(
        self,
        name: str,
        file: int,
        sources: Mapping[str, list[str]] | None = None,
        parts: Sequence[Shared[Any]] = (),
    ) -> None:
        self.name = name
        self.parts = tuple(parts)
        self.sources = dict(sources or {})
        self.size_bytes = os.fstat(file).st_size
        self._file = file
        self._read = False
        self._value: Any = None
        self._closing = weakref.finalize(self, os.close, file)
        self._closing.atexit = False  # it ends with the process anyway

    @property
    def value(self) -> T:
        """The object, rebuilt in this process when it is first read.

        Raises:
            PayloadError: it was freed.
        """
        if not self._read:
            self._value = _load(parcel.read(self.file), lambda place: self.parts[place.number])
            self._read = True
        value: T = self._value
        return value

    @property
    def file(self) -> int:
        """Descriptor of the file that holds the parcel.

        Raises:
            PayloadError: it was freed.
        """
        if not self._closing.alive:
            raise PayloadError(f"the shared {self.name} was freed", f"share it again: {self.name} = share(...)")
        return self._file

    def free(self) -> None:
        """Give the memory back; runs that still read it keep it until they end."""
        self._closing()
        self._value, self._read = None, False

    def __enter__(self) -> Shared[T]:
        """Share for the duration of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free it."""
        self.free()

    def __repr__(self) -> str:
        """Give its name and size."""
        return f"Shared({self.name}, {self.size_bytes:,} bytes{'' if self._closing.alive else ', freed'})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by value where there is no launch to hand the file over: to a DataLoader worker, or with a result."""
        return _by_value, (self.name, self.value)


def _by_value(name: str, value: T) -> Shared[T]:
    return keep(name, pickling.JobPickler().parcel(value))


def keep(
    name: str, packed: Parcel, sources: Mapping[str, list[str]] | None = None, parts: Sequence[Shared[Any]] = ()
) -> Shared[Any]:
    """Write a parcel into a file of its own that nobody can change any more.

    Raises:
        OSError: no memory is left for it.
    """
    file = parcel.anonymous_file("shared")
    try:
        parcel.write(file, packed)
        if hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS"):
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return Shared(name, file, sources, parts)
    except BaseException:
        os.close(file)
        raise


class Place(NamedTuple):
    """Where a shared object lies in the list of those that travel beside a pickle.

    Attributes:
        number: its number in the list.
        name: what it is called in messages.
        parts: the places of the shared objects that it holds itself.
    """

    number: int
    name: str
    parts: tuple[Place, ...]


class Attachments:
    """A reducer that leaves shared objects out of a pickle and lists them: their files travel beside it.

    Attributes:
        objects: the shared objects, each once, with those that they hold.
    """

    def __init__(self) -> None:
        self.objects: list[Shared[Any]] = []
        self._indexes: dict[int, int] = {}

    def __call__(self, obj: object) -> Any:
        """Reduce a shared object to its place in the list."""
        return (attached, (self._place(obj),)) if type(obj) is Shared else NotImplemented

    def _place(self, shared: Shared[Any]) -> Place:
        assert shared.file >= 0  # raises for one that was freed, while its path can be named
        if id(shared) not in self._indexes:
            self._indexes[id(shared)] = len(self.objects)
            self.objects.append(shared)
        return Place(self._indexes[id(shared)], shared.name, tuple(map(self._place, shared.parts)))


def attached(_place: Place) -> Shared[Any]:
    """Stand in a pickle for the shared object at a place; ``load`` puts the object there."""
    raise pickle.UnpicklingError("a shared object was read without the files that travel beside it")


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: Parcel, find: Callable[[Place], Shared[Any]]) -> None:
        super().__init__(io.BytesIO(packed.body), buffers=packed.buffers)
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        """Find what a pickle names."""
        return self._find if module == __name__ and name == attached.__name__ else super().find_class(module, name)


def _load(packed: Parcel, find: Callable[[Place], Shared[Any]]) -> Any:
    with releasing_sparse_tensors():
        return _Unpickler(packed, find).load()


class _Arrived:
    """The shared objects that travelled beside a pickle, made as they are asked for."""

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files
        self._found: dict[int, Shared[Any]] = {}

    def find(self, place: Place) -> Shared[Any]:
        if place.number not in self._found:
            parts = [self.find(part) for part in place.parts]
            self._found[place.number] = Shared(place.name, self._files[place.number], parts=parts)
        return self._found[place.number]


def load(packed: Parcel, files: Sequence[int]) -> Any:
    """Rebuild the value of a parcel whose shared objects lie in ``files``, which then belong to these objects."""
    return _load(packed, _Arrived(files).find) if files else pickling.loads(packed)
