from __future__ import annotations

import gc
import os
import pickle
import sys

import pytest

from notebook_accel.errors import PayloadError
from notebook_accel.wire import parcel, pickling, shared
from notebook_accel.wire.shared import Attachments, Shared


def targets() -> list[str]:
    """Where the descriptors of this process lead."""
    gc.collect()
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found


def kept(value: object, name: str = "table") -> Shared:
    return shared.keep(name, pickling.JobPickler().parcel(value))


def test_a_value_is_a_copy_that_is_built_once():
    rows = [1, 2, 3]
    handle = kept(rows)
    rows.append(4)
    assert handle.value == [1, 2, 3]
    assert handle.value is handle.value
    handle.value.append(5)
    assert handle.value == [1, 2, 3, 5], "what a reader changes, it alone sees"
    assert pickling.loads(parcel.read(handle.file)) == [1, 2, 3]


def test_a_value_that_is_none_is_built_once_too():
    handle = kept(None)
    assert (handle.value, handle._read) == (None, True)


def test_it_says_what_it_is():
    handle = kept(b"x" * 5000)
    assert handle.size_bytes == os.fstat(handle.file).st_size > 5000
    assert repr(handle) == f"Shared(table, {handle.size_bytes:,} bytes)"
    handle.free()
    assert repr(handle) == f"Shared(table, {handle.size_bytes:,} bytes, freed)"


@pytest.mark.parametrize("how", ["value", "file"])
@pytest.mark.parametrize("read_before", [False, True])
def test_a_freed_object_is_named(how: str, read_before: bool):
    handle = kept([1])
    if read_before:
        assert handle.value == [1]
    handle.free()
    handle.free()
    with pytest.raises(PayloadError, match="the shared table was freed") as caught:
        getattr(handle, how)
    assert caught.value.hint == "share it again: table = share(...)"


def test_a_block_frees_at_its_end():
    with kept([1]) as handle:
        descriptor = handle.file
        assert handle.value == [1]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_the_file_goes_with_the_last_reference():
    before = targets()
    handle = kept([1])
    assert len(targets()) == len(before) + 1
    del handle
    assert len(targets()) == len(before)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux seals files")
def test_nobody_can_change_the_file():
    handle = kept([1])
    with pytest.raises(PermissionError):
        os.pwrite(handle.file, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(handle.file, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(handle.file, 1 << 20)
    assert handle.value == [1]


def test_large_buffers_are_mapped_and_can_be_written_to_by_one_reader_alone():
    np = pytest.importorskip("numpy")
    handle = kept(np.zeros(100_000))
    handle.value[:] = 1
    assert handle.value.sum() == 100_000
    other = pickling.loads(parcel.read(handle.file))
    assert other.sum() == 0
    assert not other.flags.owndata, "it lies in the file"


def test_where_no_file_can_travel_the_value_does():
    handle = kept({"a": [1, 2]})
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(handle, protocol))
        assert (copy.name, copy.value) == ("table", {"a": [1, 2]})
        assert copy.file != handle.file
    handle.free()
    assert copy.value == {"a": [1, 2]}
    with pytest.raises(PayloadError, match="the shared table was freed"):
        pickle.dumps(handle)


def test_a_value_that_cannot_be_written_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch):
    def full(_descriptor: int, _packed: object) -> None:
        raise OSError(28, "No space left on device")

    opened: list[int] = []
    make = parcel.anonymous_file
    monkeypatch.setattr(parcel, "anonymous_file", lambda name: opened.append(make(name)) or opened[-1])
    monkeypatch.setattr(parcel, "write", full)
    with pytest.raises(OSError, match="No space left"):
        kept([1])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_attachments_are_listed_once_and_come_back_as_one_object():
    first, second = kept([1], "first"), kept([2], "second")
    attachments = Attachments()
    value = (first, {"again": first, "second": second}, [second])
    packed = pickling.JobPickler([attachments]).parcel(value)
    assert attachments.objects == [first, second]
    one, others, (last,) = shared.load(packed, [os.dup(handle.file) for handle in attachments.objects])
    assert one is others["again"]
    assert last is others["second"]
    assert (one.value, last.value, one.name, last.name) == ([1], [2], "first", "second")


def test_attachments_hold_no_data():
    handle = kept(b"x" * 1_000_000)
    packed = pickling.JobPickler([Attachments()]).parcel([handle, handle])
    assert parcel.total_bytes(packed) < 1000
    with pytest.raises(pickle.UnpicklingError, match="without the files that travel beside it"):
        pickling.loads(packed)


def test_a_parcel_without_attachments_is_read_as_any():
    assert shared.load(pickling.JobPickler([Attachments()]).parcel({"a": 1}), []) == {"a": 1}


def test_a_freed_object_is_refused_while_it_is_pickled():
    handle = kept([1])
    handle.free()
    with pytest.raises(PayloadError, match="the shared table was freed"):
        pickling.JobPickler([Attachments()]).parcel([handle])
