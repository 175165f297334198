"""Files of nested plain data and tensors, in torch's own format; nothing that is read from one is run as code."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

import torch

from notebook_accel.core.files.sink import FileRecord, written
from notebook_accel.errors import CheckpointError

_SETTING = threading.Lock()  # torch's setting for whether it computes checksums is the process's


def write_objects(path: Path, data: Any, *, staged: bool = False, checksums: bool = True) -> FileRecord:
    """Write a file that ``read_objects`` reads, and torch's own ``load`` with ``weights_only=True``.

    Args:
        path: the file; there is none yet.
        data: containers, plain values, tensors and arrays.
        staged: as in ``written``.
        checksums: let torch put its own into the file, which takes as long as all else; of no use beside a record.

    Raises:
        CheckpointError: there is no space, or ``data`` holds something that cannot be read without running code.
    """
    with written(path, staged=staged) as sink, nullcontext() if checksums else _no_checksums():
        torch.save(data, cast("IO[bytes]", sink))
    allowed = {f"{module}.{name}" for module, name in _names(numpy_types())}
    unsafe = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - allowed)
    if unsafe:
        what = f"{path.name} would hold {', '.join(unsafe)}, which cannot be loaded without running code"
        raise CheckpointError(what, "let state_dict() give numbers, strings, tensors, and lists and dicts of them")
    return sink.record


@contextmanager
def _no_checksums() -> Iterator[None]:
    with _SETTING:
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            yield
        finally:
            torch.serialization.set_crc32_options(before)


def read_objects(path: Path) -> Any:
    """Read a file of ``write_objects`` or ``torch.save``, with its tensors on the CPU, mapped from the file.

    Args:
        path: the file, which must stay as it is while the tensors are used.

    Raises:
        CheckpointError: it is damaged, or holds something that would be run as code.
    """
    try:
        with torch.serialization.safe_globals(numpy_types()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map(path))
    except pickle.UnpicklingError as error:
        lines = str(error).splitlines()
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
        what = f"{path} holds something that is not data: {reason}"
        raise CheckpointError(what, "never trust such a file: to load it would run code that is in it") from None
    except Exception as error:  # noqa: BLE001 - whatever bytes that are no file of torch's lead to
        what = f"{path} is damaged: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise CheckpointError(what, "load the checkpoint before it") from None


def can_map(path: Path) -> bool:
    """Tell whether a file's tensors are mapped from it when it is read, instead of being copied.

    Args:
        path: the file.
    """
    with path.open("rb") as file:
        return file.read(2) == b"PK"  # files of very old versions of torch are no archives


def numpy_types() -> list[Any]:
    """Give what arrays and numbers of NumPy are made of in a file: plain data, though torch does not know it."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return []
    array = numpy.array([0], dtype="uint32")
    rebuild, scalar = array.__reduce__()[0], numpy.float64(0).__reduce__()[0]
    kinds = {type(numpy.dtype(code)) for code in "?bhilqBHILQefdFD"}
    both = [(made, f"{package}.multiarray.{made.__name__}") for made in (rebuild, scalar) for package in _PACKAGES]
    return [numpy.ndarray, numpy.dtype, *kinds, *both]


_PACKAGES = ("numpy.core", "numpy._core")  # before and since NumPy 2


def _names(types: list[Any]) -> list[tuple[str, str]]:
    given = [one[1].rpartition(".") if isinstance(one, tuple) else (one.__module__, ".", one.__name__) for one in types]
    return [(module, name) for module, _, name in given]
