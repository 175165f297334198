from __future__ import annotations

import pickle
import sys
import types
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler

import cloudpickle
import pytest

from notebook_accel.worker import children
from tests.unit.worker.forks import in_a_fork, in_a_fresh_process

CELLS = """
factor = 3
class Point:
    def __init__(self, x): self.x = x
    def scaled(self): return self.x * factor
class Outer:
    class Inner: pass
def make(x): return Point(x)
"""


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    """A ``__main__`` with nothing in it."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def cells() -> types.ModuleType:
    module = types.ModuleType("__main__")
    exec(CELLS, module.__dict__)
    return module


def pickled(obj: object) -> bytes:
    return cloudpickle.dumps(obj)


def test_what_belongs_to_the_notebook_is_put_where_it_is_looked_up(main: types.ModuleType):
    make = children.into_main(pickled(cells().make), "make")
    assert main.make is make
    assert make(2).scaled() == 6
    assert type(make(2)) is main.Point, "the classes that it uses came along"
    assert pickle.loads(pickle.dumps(make(4))).x == 4


def test_what_is_there_already_is_taken(main: types.ModuleType):
    main.make = len
    assert children.into_main(b"not even a pickle", "make") is len


def test_a_class_within_a_class_is_rebuilt_and_put_nowhere(main: types.ModuleType):
    inner = children.into_main(pickled(cells().Outer.Inner), "Outer.Inner")
    assert inner.__qualname__ == "Outer.Inner"
    assert "Outer.Inner" not in main.__dict__


def test_classes_that_main_has_are_left_alone(main: types.ModuleType):
    module = types.ModuleType("__main__")
    exec("class OnlyHere: pass", module.__dict__)
    pickled(module.OnlyHere)  # now cloudpickle knows the class
    main.OnlyHere = "mine"
    children.fill_classes(main)
    assert main.OnlyHere == "mine"
    del main.OnlyHere
    children.fill_classes(main)
    assert main.OnlyHere is module.OnlyHere


def test_only_what_belongs_to_main_goes_by_value():
    def look() -> tuple[object, ...]:
        module = cells()
        main = sys.modules["__main__"] = types.ModuleType("__main__")  # another, as in a process started afresh
        children.send_main_by_value()
        make, point, other, built_in = ForkingPickler.loads(
            ForkingPickler.dumps([module.make, module.Point, OrderedDict, len])
        )
        return main.make is make, main.Point is point, other is OrderedDict, built_in is len, make(5).scaled()

    assert in_a_fork(look) == (True, True, True, True, 15)


NAMES = """
import functools, typing
Kind = typing.NewType("Kind", int)
@functools.cache
def load(x): return x * factor + (load(x - 1) if x else 0)
factor = 2
class Data:
    def __init__(self): self.kind, self.load = Kind, load
    @functools.cache
    def total(self): return self.load(3)
"""


def test_what_is_looked_up_by_its_name_is_found_in_a_process_that_is_started_afresh():
    code = f"""
import multiprocessing, sys, types
from notebook_accel.worker import children
module = types.ModuleType("__main__")
sys.modules["__main__"] = module
exec({NAMES!r}, module.__dict__)
children.send_main_by_value()
with multiprocessing.get_context("spawn").Pool(1) as pool:
    data = module.Data()
    print(pool.apply(module.load, (3,)), pool.apply(data.total), pool.apply(data.kind, (4,)))
    names = pool.apply(tuple, ([module.load, module.Kind],))
    print(names[0] is module.load, names[1] is module.Kind)
"""
    assert in_a_fresh_process(code).split() == ["12", "12", "4", "True", "True"]


@pytest.mark.parametrize("present", [False, True])
def test_what_multiprocessing_does_is_changed_for_a_block_only(monkeypatch: pytest.MonkeyPatch, present: bool):
    if present:
        monkeypatch.setattr(ForkingPickler, "reducer_override", lambda *_: NotImplemented, raising=False)
    before = dict(vars(ForkingPickler))
    with pytest.raises(LookupError), children.main_sent_by_value():
        assert vars(ForkingPickler)["reducer_override"] is children._reduce
        with children.main_sent_by_value():
            pass
        assert vars(ForkingPickler)["reducer_override"] is children._reduce
        raise LookupError
    assert dict(vars(ForkingPickler)) == before


def test_a_process_that_is_started_afresh_finds_the_notebook():
    code = f"""
import multiprocessing, sys, types
from notebook_accel.worker import children
module = types.ModuleType("__main__")
sys.modules["__main__"] = module
exec({CELLS!r}, module.__dict__)
children.send_main_by_value()
with multiprocessing.get_context("spawn").Pool(1) as pool:
    point = pool.apply(module.make, (4,))
    print(type(point) is module.Point, point.scaled(), pool.apply(module.Point.scaled, (point,)))
"""
    assert in_a_fresh_process(code) == "True 12 12"
