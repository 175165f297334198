from __future__ import annotations

import os

import pytest

from notebook_accel.wire import parcel
from notebook_accel.wire.parcel import Parcel


@pytest.fixture
def file():
    descriptor = parcel.anonymous_file("test")
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (64, 0, 65, 100_000)])
def test_what_is_written_is_read(file: int, sizes: tuple[int, ...]):
    buffers = tuple(memoryview(bytes([i + 1]) * size) for i, size in enumerate(sizes))
    parcel.write(file, Parcel(b"body", buffers))
    found = parcel.read(file)
    assert bytes(found.body) == b"body"
    assert [bytes(buffer) for buffer in found.buffers] == [bytes(buffer) for buffer in buffers]
    assert parcel.total_bytes(found) == 4 + sum(sizes)
    copy = parcel.in_memory(found)
    assert [bytes(buffer) for buffer in copy.buffers] == [bytes(buffer) for buffer in buffers]


def test_a_reader_changes_only_its_own_view(file: int):
    parcel.write(file, Parcel(b"", (memoryview(b"same"),)))
    first, second = parcel.read(file), parcel.read(file)
    first.buffers[0][0] = ord("S")
    assert (bytes(first.buffers[0]), bytes(second.buffers[0])) == (b"Same", b"same")
    assert bytes(parcel.read(file).buffers[0]) == b"same"


@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_damaged_parcel_is_refused(file: int, damage: str):
    parcel.write(file, Parcel(b"body", (memoryview(bytes(1000)),)))
    if damage == "other":
        os.pwrite(file, b"junk", 0)
    else:
        os.ftruncate(file, 0 if damage == "empty" else 500)
    with pytest.raises(ValueError, match="the parcel"):
        parcel.read(file)
