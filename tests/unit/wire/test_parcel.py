from __future__ import annotations

import gc
import os

import numpy as np
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


def address(buffer: memoryview) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


@pytest.mark.parametrize("body", [b"", b"b", b"b" * 63, b"b" * 4097])
def test_every_buffer_begins_at_a_multiple_of_64_bytes(file: int, body: bytes):
    parcel.write(file, Parcel(body, tuple(memoryview(bytes(size)) for size in (1, 63, 64, 65, 4096))))
    assert [address(buffer) % 64 for buffer in parcel.read(file).buffers] == [0] * 5


def test_buffers_of_other_items_than_bytes_are_written_as_bytes(file: int):
    parcel.write(file, Parcel(b"", (memoryview(np.arange(5.0)), memoryview(np.arange(0)))))
    numbers, nothing = parcel.read(file).buffers
    assert np.frombuffer(numbers).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert nothing.nbytes == 0


def test_a_copy_in_memory_shares_nothing_with_the_file(file: int):
    parcel.write(file, Parcel(b"body", (memoryview(b"same"),)))
    mapped = parcel.read(file)
    copy = parcel.in_memory(mapped)
    mapped.buffers[0][0] = ord("S")
    copy.buffers[0][1] = ord("A")
    assert (bytes(mapped.buffers[0]), bytes(copy.buffers[0])) == (b"Same", b"sAme")


def test_a_mapping_outlives_the_descriptor_and_goes_with_its_last_reader():
    before = len(os.listdir("/proc/self/fd"))
    descriptor = parcel.anonymous_file("test")
    parcel.write(descriptor, Parcel(b"", (memoryview(b"kept"),)))
    found = parcel.read(descriptor)
    os.close(descriptor)
    assert bytes(found.buffers[0]) == b"kept"
    del found
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("named", [True, False], ids=["memfd", "temporary file"])
def test_the_file_has_no_path_and_is_closed_on_exec(monkeypatch: pytest.MonkeyPatch, named: bool):
    if not named:
        monkeypatch.delattr(os, "memfd_create")
    descriptor = parcel.anonymous_file("test")
    try:
        assert not os.get_inheritable(descriptor)
        assert "(deleted)" in os.readlink(f"/proc/self/fd/{descriptor}")
        parcel.write(descriptor, Parcel(b"body"))
        assert bytes(parcel.read(descriptor).body) == b"body"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 36, 63, 64, 165])
def test_a_parcel_cut_anywhere_is_refused(file: int, size: int):
    parcel.write(file, Parcel(b"body", (memoryview(bytes(100)), memoryview(b"\1" * 2))))
    assert os.fstat(file).st_size == 194
    os.ftruncate(file, size)
    raised: type[Exception] | None = None
    try:
        parcel.read(file)
    except Exception as error:  # not pytest.raises: an error that is kept would keep the mapping
        raised = type(error)
    assert raised is ValueError
