from __future__ import annotations

import gc
import types

import numpy as np
import pytest
from cloudpickle import cloudpickle as internals

from notebook_accel.wire import pickling
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
    identity = internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls]
    body = bytes(packed.body)
    del cls, packed
    gc.collect()
    assert identity not in internals._DYNAMIC_CLASS_TRACKER_BY_ID
    assert pickling.loads(pickling.Parcel(body)).answer() == 42


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
