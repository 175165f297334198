from __future__ import annotations

import functools
import linecache
import os
import threading
import types

import pytest

from notebook_accel.errors import ConfigError, PayloadError
from notebook_accel.launch.job import Call, make_job
from notebook_accel.wire import parcel, pickling

LOCK = threading.Lock()


def by_value(function):
    """Let cloudpickle treat it as a cell's function."""
    function.__module__ = "__main__"
    return function


def test_a_call_travels():
    job = make_job(Call(by_value(lambda x, *, y: x + y), (1,), {"y": 2}))
    function, args, kwargs = pickling.loads(parcel.read(job.files[0]))
    job.close()
    assert function(*args, **kwargs) == 3
    assert job.sources == {}, "this file's source lies on disk"


def uses_lock():
    with LOCK:
        return 1


def closes_over(value):
    return lambda: value


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (Call(max, (1, LOCK)), r"args\[1\] \(a thread lock\)"),
        (Call(max, (), {"key": LOCK}), r"kwargs\['key'\] \(a thread lock\)"),
        (Call(by_value(uses_lock)), r"uses_lock -> LOCK \(a thread lock\)"),
        (Call(by_value(closes_over(LOCK))), r"<lambda> -> value \(a thread lock\)"),
    ],
)
def test_what_cannot_travel_is_named(call: Call, culprit: str):
    with pytest.raises(PayloadError, match=culprit) as caught:
        make_job(call)
    assert "TypeError: cannot pickle" in str(caught.value)
    assert "inside the function" in caught.value.hint


def test_names():
    assert Call(max).name == "max"
    assert Call(threading.Event()).name == "Event"  # type: ignore[arg-type]


def cell(source: str, file: str = "<cell 3>", **names: object) -> types.ModuleType:
    module = types.ModuleType("__main__")
    module.__dict__.update(names)
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def unpacked(call: Call) -> tuple[object, dict[str, list[str]]]:
    job = make_job(call)
    try:
        return pickling.loads(parcel.read(job.files[0])), job.sources
    finally:
        job.close()


def test_the_call_travels_whole():
    call = Call(cell("def add(a, *, b): return a + b").add, (1,), {"b": 2})
    (function, args, kwargs), _ = unpacked(call)
    assert function(*args, **kwargs) == 3


def test_sources_of_cells_travel_and_those_of_files_do_not(monkeypatch: pytest.MonkeyPatch):
    lines = ["def add(a):\n", "    return helper(a)\n"]
    monkeypatch.setitem(linecache.cache, "<cell 3>", (0, None, lines, "<cell 3>"))
    helper = cell("def helper(a): return a", __file__).helper
    _, sources = unpacked(Call(cell("".join(lines), helper=helper).add))
    assert sources == {"<cell 3>": lines}


GUARDED = """
def use_variable(): return guard
def use_helper(): return use_variable()
def make(guard):
    def use_closure(): return guard
    return use_closure
def plain(*args, **kwargs): pass
"""


@pytest.mark.parametrize(
    ("make_call", "name", "culprit"),
    [
        (lambda m: Call(m.plain, (1, threading.Lock())), "plain", r"args\[1\]"),
        (lambda m: Call(m.plain, (), {"a": 1, "b": threading.Lock()}), "plain", r"kwargs\['b'\]"),
        (lambda m: Call(m.plain, ([{"deep": threading.Lock()}],)), "plain", r"args\[0\]\[0\]\['deep'\]"),
        (lambda m: Call(m.use_variable), "use_variable", "use_variable -> guard"),
        (lambda m: Call(m.use_helper), "use_helper", "use_helper -> use_variable -> guard"),
        (lambda m: Call(m.make(threading.Lock())), "use_closure", "use_closure -> guard"),
        (lambda m: Call(functools.partial(m.plain, threading.Lock())), "partial", r"partial.args\[0\]"),
    ],
    ids=["argument", "keyword", "deep in an argument", "variable", "variable of a helper", "closure", "partial"],
)
def test_every_culprit_is_named(make_call, name: str, culprit: str):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(
        PayloadError, match=f"^{name} cannot be sent to the ranks because of {culprit} \\(a thread lock\\): "
    ) as caught:
        make_job(make_call(cell(GUARDED, guard=threading.Lock())))
    assert isinstance(caught.value.__cause__, TypeError)
    assert "inside the function" in caught.value.hint
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_argument_whose_pickling_raises_anything():
    class Rude:
        def __reduce__(self):
            raise LookupError("no")

    with pytest.raises(PayloadError, match=r"args\[0\] \(of type Rude\): LookupError: no"):
        make_job(Call(len, (Rude(),)))


@pytest.mark.parametrize(
    ("function", "name"), [(len, "len"), (functools.partial(len), "partial"), (lambda: 1, "<lambda>"), (int, "int")]
)
def test_the_name_in_messages(function, name: str):
    assert Call(function).name == name


def test_code_whose_file_name_can_be_no_path():
    (function, _, _), _ = unpacked(Call(cell("def f(): return 1", "x" * 300).f))
    assert function() == 1
    assert function.__code__.co_filename == "x" * 300


def test_small_jobs_have_nothing_to_say():
    job = make_job(Call(len, ("abc",)))
    job.close()
    assert job.notices == ()


def test_large_jobs_say_so():
    job = make_job(Call(len, (bytearray(120_000_000),)))
    job.close()
    assert job.notices[0] == "120 MB travel to the ranks: args[0]: 120 MB"
    assert "share(obj)" in job.notices[1]


def test_a_large_file_is_closed_in_the_background():
    job = make_job(Call(len, (bytearray(32 << 20),)))
    job.close()
    for thread in threading.enumerate():
        if thread.name == "notebook_accel-freeing":
            thread.join()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(job.files[0])


def test_nothing_is_left_open_where_by_value_is_wrong():
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError):
        make_job(Call(len, ("abc",)), ["no_such_module"])
    assert len(os.listdir("/proc/self/fd")) == before
