"""Writing one file so that it is on the disk, whole and with a known checksum, when that is said."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import xxhash

from notebook_accel.errors import CheckpointError

# Small enough to be in the processor's cache for the second look, large enough to make few calls.
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 16  # for the many small pieces that torch writes; larger ones pass by it


class Bytes(Protocol):
    """Anything whose memory can be looked at: bytes, a memoryview, an array."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


@dataclass(frozen=True)
class FileRecord:
    """What a file was when it was written.

    Attributes:
        size_bytes: its length.
        xxh3: checksum of what it holds, in hexadecimal. Source: https://xxhash.com
    """

    size_bytes: int
    xxh3: str


class Sink:
    """A file that is written from start to end.

    Args:
        file: opened for writing.

    Attributes:
        failure: why the system did not take more, if it did not; who writes may raise something else then.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None
        self._size_bytes = 0
        self._checksum = xxhash.xxh3_64()

    @property
    def record(self) -> FileRecord:
        """What the file is, as far as it is written."""
        return FileRecord(self._size_bytes, self._checksum.hexdigest())

    def write(self, data: Bytes) -> int:
        """Append ``data``, all of it, and give how many bytes that was."""
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                self._checksum.update(chunk)
                self._file.write(chunk)
        except OSError as error:
            self.failure = error
            raise
        self._size_bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Do nothing: ``written`` does so at the end."""


@contextmanager
def written(path: Path, *, staged: bool = False) -> Iterator[Sink]:
    """Give a sink for a new file, which is on the disk when the block has ended.

    Args:
        path: the file; there is none yet.
        staged: write it on a disk of this machine first, copy it, and read it back: for folders on the network.

    Raises:
        CheckpointError: there is no space, or what was read back is not what was written.
    """
    sink: Sink | None = None
    try:
        if staged:
            with tempfile.TemporaryDirectory(prefix="notebook_accel-") as folder:
                local = Path(folder, path.name)
                with local.open("xb", buffering=_BUFFER_BYTES) as file:
                    sink = Sink(file)
                    yield sink
                _copy(local, path, sink.record)
        else:
            with path.open("xb", buffering=_BUFFER_BYTES) as file:
                sink = Sink(file)
                yield sink
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise _failed(path, error) from error
    except RuntimeError as error:  # torch's writer, which cannot end its archive then
        if sink is None or sink.failure is None:
            raise
        raise _failed(path, sink.failure) from error


def _copy(local: Path, path: Path, record: FileRecord) -> None:
    with local.open("rb") as source, path.open("xb") as file:
        shutil.copyfileobj(source, file, _CHUNK_BYTES)
        file.flush()
        os.fsync(file.fileno())
    found = record_of(path)
    if found != record:
        what = f"{path} was read back as {_words(found)}, but {_words(record)} were written"
        raise CheckpointError(what, "save to a folder on a disk of this machine and copy it afterwards")


def record_of(path: Path) -> FileRecord:
    """Read a file and give what it is.

    Args:
        path: the file.
    """
    size, checksum = 0, xxhash.xxh3_64()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            checksum.update(view[:count])
            size += count
    return FileRecord(size, checksum.hexdigest())


def sync(path: Path) -> None:
    """Let what a file holds, or the names in a folder, survive a loss of power.

    Args:
        path: which has to be there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError) -> CheckpointError:
    reason = error.strerror or str(error)
    try:
        free = f"; {shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free"
    except OSError:
        free = ""
    what = f"{path} could not be written: {reason}{free}"
    return CheckpointError(what, "make room or save elsewhere; the checkpoints before are whole, training may go on")


def _words(record: FileRecord) -> str:
    return f"{record.size_bytes:,} bytes with checksum {record.xxh3}"
