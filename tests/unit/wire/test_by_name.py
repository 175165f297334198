from __future__ import annotations

import functools
import inspect
import pickle
import sys
import types
import typing
from typing import Any

import cloudpickle
import pytest

from notebook_accel.wire import pickling
from notebook_accel.wire.by_name import NameOnlyError
from notebook_accel.wire.pickling import JobPickler, ResultPickler

CELLS = """
import functools, typing
factor = 3
@functools.lru_cache(maxsize=7, typed=True)
def load(x):
    "Load it."
    return x * factor
load.kind = "table"
@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def use(n): return fib(n), fib
class Rows:
    def __init__(self, n): self.n = n
    @functools.lru_cache
    def load(self, x): return self.n * x * factor
    @functools.cached_property
    def size(self): return self.n * factor
    def who(self): return Rows
    @staticmethod
    @functools.cache
    def static(x): return x + factor
class More(Rows):
    @functools.cache
    def load(self, x): return super().load(x) + 1
UserId = typing.NewType("UserId", int)
RowsId = typing.NewType("RowsId", Rows)
P = typing.ParamSpec("P", covariant=True)
def decorate(function: typing.Callable[P, int], key: UserId) -> RowsId: return function
"""


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A notebook, whose names pickle finds here."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(compile(CELLS, "<cell 3>", "exec", dont_inherit=True), module.__dict__)
    return module


@pytest.fixture
def sent(main: Any, monkeypatch: pytest.MonkeyPatch):
    """Take a value to where ``__main__`` has nothing in it."""

    def sent(value: Any) -> Any:
        packed = JobPickler().parcel(value)
        with monkeypatch.context() as there:
            there.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
            return pickling.loads(packed)

    return sent


def test_a_cached_function_travels_with_an_empty_cache(main: Any, sent: Any):
    main.load(5)
    found = sent(main.load)
    assert found is not main.load
    assert found.cache_info() == (0, 0, 7, 0)
    assert found.cache_parameters() == {"maxsize": 7, "typed": True}
    assert (found(5), found(5), found.cache_info().hits) == (15, 15, 1)
    assert (found.__name__, found.__qualname__, found.__module__) == ("load", "load", "__main__")
    assert (found.__doc__, found.kind, found.__wrapped__(2)) == ("Load it.", "table", 6)
    assert found.__wrapped__.__code__.co_filename == "<cell 3>"
    assert main.load.cache_info().currsize == 1


@pytest.mark.parametrize("first", ["fib", "use"])
def test_a_cached_function_that_calls_itself_is_one(main: Any, sent: Any, first: str):
    found = sent([getattr(main, first), main.use, main.fib, main.fib])
    _, use, fib, again = found
    assert fib is again
    assert fib is use(1)[1]
    assert fib is fib.__wrapped__.__globals__["fib"]
    assert fib(80) == 23416728348467685
    assert fib.cache_info().currsize == 81, "the calls of itself are cached too"


def test_cached_methods_and_properties_of_a_class(main: Any, sent: Any):
    rows = main.Rows(2)
    found, more, static, load = sent([rows, main.More(4), main.Rows.static, main.Rows.load])
    assert (found.load(2), found.size, found.size, more.load(1), more.size) == (12, 6, 6, 13, 12)
    assert static(1) == 4
    assert static is type(found).static
    assert load is type(found).load
    assert load.__qualname__ == "Rows.load"


def test_a_cached_method_goes_first_and_leads_back_to_its_class(main: Any, sent: Any):
    load, cls = sent([main.More.load, main.More])
    assert load is cls.load
    assert cls(4).load(1) == 13


def test_a_bound_cached_method(main: Any, sent: Any):
    assert sent(main.Rows(2).load)(3) == 18


def test_a_cache_around_what_has_no_name(main: Any, sent: Any):
    assert sent(functools.cache(functools.partial(main.load, 2)))() == 6
    assert sent(functools.cache(len))("abc") == 3
    inner = functools.cache(lambda x: x + 1)
    assert sent([inner, functools.lru_cache(2)(inner)])[1](1) == 2


def test_names_of_typing(main: Any, sent: Any):
    user, rows, cls, decorate, key, again = sent(
        [main.UserId, main.RowsId, main.Rows, main.decorate, {main.UserId: 1}, main.UserId]
    )
    assert (user(3), user.__supertype__, user.__name__, user.__module__) == (3, int, "UserId", "__main__")
    assert user is again
    assert key == {user: 1}
    assert rows.__supertype__ is cls
    annotations = inspect.get_annotations(decorate)
    assert annotations["key"] is user
    specification = typing.get_args(annotations["function"])[0]
    assert isinstance(specification, typing.ParamSpec)
    assert (specification.__name__, specification.__covariant__) == ("P", True)
    assert specification.__module__ == "__main__"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TypeVarTuple is new in Python 3.11")
def test_a_tuple_of_type_variables(main: Any, sent: Any):
    exec("Ts = typing.TypeVarTuple('Ts')", main.__dict__)
    first, second = sent([main.Ts, main.Ts])
    assert first is second
    assert (first.__name__, first.__module__) == ("Ts", "__main__")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in Python 3.12")
def test_a_type_alias(main: Any, sent: Any):
    source = "type Pair[T] = tuple[T, Rows]\ndef first(pair: Pair[int]) -> int: return pair[0]"
    exec(compile(source, "<cell 4>", "exec", dont_inherit=True), main.__dict__)
    alias, first, cls = sent([main.Pair, main.first, main.Rows])
    assert (alias.__name__, alias.__value__.__args__[1]) == ("Pair", cls)
    assert typing.get_origin(first.__annotations__["pair"]) is alias
    assert first((1, 2)) == 1


def test_what_can_be_imported_stays_a_name():
    compiled = functools._lru_cache_wrapper
    library = __import__("fnmatch")._compile_pattern
    assert type(library) is compiled
    assert pickling.loads(JobPickler().parcel([library, len, Ellipsis])) == [library, len, ...]
    assert b"_compile_pattern" in bytes(JobPickler().parcel(library).body)
    assert len(JobPickler().parcel(library).body) < 60


def test_a_module_that_travels_by_value_sends_its_cached_functions(monkeypatch: pytest.MonkeyPatch):
    module: Any = types.ModuleType("made_here")
    monkeypatch.setitem(sys.modules, "made_here", module)
    exec(CELLS + MARK, module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    try:
        packed = JobPickler().parcel([module.load, module.UserId])
        with pytest.raises(NameOnlyError, match="of type Mark, which is pickled as the bare name MISSING"):
            JobPickler().parcel([module.MISSING])
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    monkeypatch.delitem(sys.modules, "made_here")
    load, user = pickling.loads(packed)
    assert (load(2), user(1)) == (6, 1)


MARK = """
class Mark:
    def __reduce__(self): return "MISSING"
MISSING = Mark()
class Ex(Mark):
    def __reduce_ex__(self, protocol): return "OTHER"
OTHER = Ex()
class Pair:
    def __init__(self, a): self.a = a
    def __reduce__(self): return Pair, (self.a,)
"""


def test_an_object_that_is_only_a_name_is_refused(main: Any, sent: Any):
    exec(MARK, main.__dict__)
    for mark, name in ((main.MISSING, "MISSING"), (main.OTHER, "OTHER")):
        assert pickle.loads(pickle.dumps(mark)) is mark, "pickle alone sees nothing wrong"
        with pytest.raises(NameOnlyError, match=f"pickled as the bare name {name} of this notebook") as caught:
            JobPickler().parcel([mark])
        assert "__reduce__" in caught.value.hint
    assert sent(main.Pair([1])).a == [1]


def test_objects_that_reduce_themselves_are_asked_once():
    class Asked:
        count = 0

        def __reduce__(self) -> Any:
            Asked.count += 1
            return str, ("x",)

    assert pickling.loads(JobPickler().parcel([Asked()])) == ["x"]
    assert Asked.count == 1


def test_on_the_way_back_a_name_of_the_notebook_is_the_notebooks_own_object(main: Any):
    exec(MARK, main.__dict__)
    values = [main.load, main.UserId, main.Rows.load, main.MISSING]
    assert all(
        found is value for found, value in zip(pickling.loads(ResultPickler([]).parcel(values)), values, strict=True)
    )


def test_on_the_way_back_what_the_function_made_travels(main: Any):
    def make() -> Any:
        @functools.cache
        def made(x: int) -> int:
            return made(x - 1) + 1 if x else 0

        return made

    assert pickling.loads(ResultPickler([]).parcel(make()))(50) == 50


def test_the_copy_of_a_class_names_nothing_of_the_notebook(main: Any, monkeypatch: pytest.MonkeyPatch):
    copy = pickling._copy_of(main.Rows)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    assert pickle.loads(copy)(2).load(3) == 18
