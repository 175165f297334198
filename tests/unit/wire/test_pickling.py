from __future__ import annotations

import os
import pickle
import types
from collections import OrderedDict

import numpy as np
import pytest
from cloudpickle import cloudpickle as internals

from notebook_accel.wire import parcel, pickling
from notebook_accel.wire.outcome import Failure
from notebook_accel.wire.pickling import JobPickler, ResultPickler


def from_cell(source: str, name: str) -> object:
    module = types.ModuleType("__main__")
    exec(compile(source, "<cell 7>", "exec"), module.__dict__)
    return module.__dict__[name]


def test_large_arrays_stay_out_of_the_stream_and_can_be_written_to():
    large, small = np.arange(10_000.0), np.arange(3.0)
    packed = JobPickler().parcel({"large": large, "small": small})
    assert [buffer.nbytes for buffer in packed.buffers] == [80_000]
    found = pickling.loads(packed)
    assert (found["large"] == large).all()
    assert (found["small"] == small).all()
    found["small"][0] = 5


def test_code_keeps_the_name_of_its_file():
    function = from_cell("def f():\n    def g(): return 1\n    return g", "f")
    pickler = JobPickler()
    found = pickling.loads(pickler.parcel(function))
    assert pickler.code_files == {"<cell 7>"}
    assert found.__code__.co_filename == found().__code__.co_filename == "<cell 7>"


def test_a_class_of_the_kernel_comes_back_as_itself_with_its_methods_untouched():
    cls = from_cell("class Metrics:\n    def scaled(self): return factor\nfactor = 1", "Metrics")
    method = cls.scaled
    packed = ResultPickler([cls]).parcel([cls(), cls])
    instance, found = pickling.loads(packed)
    assert found is cls
    assert type(instance) is cls
    assert cls.scaled is method


def test_a_class_that_the_kernel_has_dropped_is_rebuilt_from_its_copy():
    cls = from_cell("class Gone:\n    def answer(self): return 42", "Gone")
    packed = ResultPickler([cls]).parcel(cls())
    identity = internals._DYNAMIC_CLASS_TRACKER_BY_CLASS.pop(cls)
    del internals._DYNAMIC_CLASS_TRACKER_BY_ID[identity]  # as when the notebook's last reference goes
    found = pickling.loads(packed)
    assert type(found) is not cls
    assert found.answer() == 42


def test_reducers_change_what_they_know_and_leave_the_rest():
    class Device:
        pass

    def reduce(obj: object) -> object:
        return (str, ("on the CPU",)) if isinstance(obj, Device) else NotImplemented

    packed = ResultPickler([], [reduce]).parcel([Device(), 1, {"x": Device()}])
    assert pickling.loads(packed) == ["on the CPU", 1, {"x": "on the CPU"}]


@pytest.mark.parametrize("data", [None, b"", b"junk", b"cbuiltins\nint\n."])
def test_an_exception_that_cannot_be_rebuilt_is_none(data: bytes | None):
    failure = Failure(rank=0, headline="x", hint="y", at_seconds=0.0, exception_pickle=data)
    assert failure.load_exception() is None


@pytest.mark.parametrize(("size", "outside"), [(0, 0), (4095, 0), (4096, 1), (4097, 1)])
def test_the_size_that_decides(size: int, outside: int):
    packed = JobPickler().parcel(np.full(size, 7, np.uint8))
    assert len(packed.buffers) == outside
    assert pickling.loads(packed).tolist() == [7] * size


@pytest.mark.parametrize("array", [np.ones((100, 100)), np.ones((100, 100), order="F"), np.ones((200, 200))[::2, ::2]])
def test_arrays_of_any_layout_can_be_written_to_after_the_way_through_a_file(array: np.ndarray):
    file = parcel.anonymous_file("test")
    parcel.write(file, JobPickler().parcel([array, array]))
    first, second = pickling.loads(parcel.read(file))
    os.close(file)
    assert first is second, "what is one object stays one"
    first[0, 0] = 5
    assert first.sum() == array.sum() + 4
    assert array[0, 0] == 1


def test_the_files_of_all_code_are_noted():
    inner = from_cell("def inner(): return 1", "inner")
    outer = types.ModuleType("__main__")
    outer.inner = inner
    exec(compile("def outer(f=lambda: 2): return inner() + f()", "<cell 8>", "exec"), outer.__dict__)
    pickler = JobPickler()
    assert pickling.loads(pickler.parcel(outer.outer))() == 3
    assert pickler.code_files == {"<cell 7>", "<cell 8>"}
    assert JobPickler().code_files == set()


def test_a_class_of_the_rank_that_extends_one_of_the_kernel():
    base = from_cell("class Base:\n    def scaled(self): return factor\nfactor = 1", "Base")
    method = base.scaled
    child = type("Child", (base,), {"__module__": "__main__", "own": lambda self: self.scaled() + 1})
    packed = ResultPickler([base]).parcel({base: child()})
    ((key, value),) = pickling.loads(packed).items()
    assert key is base
    assert isinstance(value, base)
    assert value.own() == 2
    assert base.scaled is method


def test_a_class_that_cannot_be_copied_still_comes_back_as_itself():
    cls = from_cell("import threading\nclass Locked:\n    lock = threading.Lock()", "Locked")
    assert type(pickling.loads(ResultPickler([cls]).parcel(cls()))) is cls


@pytest.mark.parametrize("name", ["Gone", "Other"], ids=["unknown", "another class under the same id"])
def test_a_class_that_is_gone_and_has_no_copy_is_named(name: str):
    cls = from_cell("class Kept: pass", "Kept")
    tracker_id = internals._get_or_create_tracker_id(cls) if name == "Other" else "no such id"
    with pytest.raises(pickle.UnpicklingError, match=f"class {name} is gone from the notebook"):
        pickling.kernel_class(tracker_id, name, b"")
    assert pickling.kernel_class(internals._get_or_create_tracker_id(cls), "Kept", b"") is cls


def test_classes_that_went_by_value_are_known():
    cls = from_cell("class Sent: pass", "Sent")
    assert cls not in pickling.dynamic_classes()
    JobPickler().parcel(cls)
    assert cls in pickling.dynamic_classes()


def test_the_first_reducer_that_knows_an_object_decides_and_classes_are_not_asked():
    asked: list[object] = []

    def note(obj: object) -> object:
        asked.append(obj)
        return NotImplemented

    def first(obj: object) -> object:
        return (str, ("first",)) if isinstance(obj, complex) else NotImplemented

    def second(obj: object) -> object:
        return (str, ("second",)) if isinstance(obj, complex) else NotImplemented

    packed = ResultPickler([], [note, first, second]).parcel([1j, OrderedDict])
    assert pickling.loads(packed) == ["first", OrderedDict]
    assert 1j in asked
    assert OrderedDict not in asked


def test_the_blocks_of_a_data_frame_stay_out_of_the_stream_and_can_be_written_to():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(10_000.0), "b": np.arange(10_000.0), "n": np.arange(10_000)})
    frame["kind"] = pandas.Categorical(["x", "y"] * 5_000)
    packed = JobPickler().parcel(frame)
    assert sum(buffer.nbytes for buffer in packed.buffers) >= 3 * 80_000 + 10_000
    assert len(packed.body) < 10_000
    file = parcel.anonymous_file("test")
    parcel.write(file, packed)
    found = pickling.loads(parcel.read(file))
    os.close(file)
    pandas.testing.assert_frame_equal(found, frame)
    found.iloc[0, 0] = 5.0
    assert (found.iloc[0, 0], frame.iloc[0, 0]) == (5.0, 0.0)
