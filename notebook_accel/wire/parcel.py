"""A pickle and its out-of-band buffers in one anonymous file, which any number of processes map.

The reader's mapping is private: one copy of the bytes serves all, until somebody writes to a page.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

_START = struct.Struct("<4sIQ")
_MAGIC = b"nba1"
_ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Parcel:
    """A pickle stream of protocol 5 and the buffers that it leaves out."""

    body: bytes | memoryview
    buffers: tuple[memoryview, ...] = ()


def anonymous_file(name: str) -> int:
    """Create a file without a path and give its descriptor; it vanishes with the last one."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(f"notebook_accel-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write(descriptor: int, parcel: Parcel) -> None:
    """Write ``parcel`` at the start of an empty file.

    Raises:
        OSError: no memory is left for it.
    """
    sizes = [buffer.nbytes for buffer in parcel.buffers]
    head = _START.pack(_MAGIC, len(sizes), len(parcel.body)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    pieces: list[bytes | memoryview] = [head, parcel.body]
    position = len(head) + len(parcel.body)
    for buffer in parcel.buffers:
        padding = -position % _ALIGNMENT_BYTES
        pieces += [bytes(padding), buffer.cast("B") if buffer.nbytes else b""]
        position += padding + buffer.nbytes
    for piece in pieces:
        _write_all(descriptor, piece)


def _write_all(descriptor: int, piece: bytes | memoryview) -> None:
    remaining = memoryview(piece)
    while remaining.nbytes:
        remaining = remaining[os.write(descriptor, remaining) :]


def read(descriptor: int) -> Parcel:
    """Map the parcel that ``write`` left in the file; writes to it stay in this process.

    Raises:
        ValueError: the file holds no whole parcel.
    """
    size = os.fstat(descriptor).st_size
    if size < _START.size:
        raise ValueError("the parcel is empty")
    view = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY))
    magic, count, body_size = _START.unpack_from(view)
    if magic != _MAGIC:
        raise ValueError("the parcel does not begin like one")
    if size < _START.size + 8 * count:
        raise ValueError(f"the parcel is cut short within its table of {count} buffers")
    sizes = struct.unpack_from(f"<{count}Q", view, _START.size)
    position = _START.size + 8 * count
    body = view[position : position + body_size]
    position += body_size
    buffers = []
    for buffer_size in sizes:
        position += -position % _ALIGNMENT_BYTES
        buffers.append(view[position : position + buffer_size])
        position += buffer_size
    if position > size:
        raise ValueError(f"the parcel is cut short: {position} bytes announced, {size} there")
    return Parcel(body, tuple(buffers))


def in_memory(parcel: Parcel) -> Parcel:
    """Copy a small parcel out of its mapping."""
    return Parcel(bytes(parcel.body), tuple(memoryview(bytearray(buffer)) for buffer in parcel.buffers))


def total_bytes(parcel: Parcel) -> int:
    """Give the size of the pickle and all its buffers."""
    return len(parcel.body) + sum(buffer.nbytes for buffer in parcel.buffers)


def as_buffers(buffers: Sequence[object]) -> tuple[memoryview, ...]:
    """View pickle buffers as flat bytes."""
    return tuple(memoryview(buffer.raw()) for buffer in buffers)  # type: ignore[attr-defined]  # PickleBuffer
