from __future__ import annotations

import linecache
import sys

import pytest

from notebook_accel.traces import carried, chain_of


def caught(source: str, **names: object) -> BaseException:
    """Give what code of a cell raises."""
    file = "<cell of a test>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(compile(source, file, "exec"), {"__name__": "__main__", **names})
    except BaseException as error:
        return error
    raise AssertionError("it was to raise")


@pytest.fixture(autouse=True)
def forgotten():
    yield
    linecache.cache.pop("<cell of a test>", None)


def test_frames_with_their_source():
    (trace,) = chain_of(caught("def train(x, *, y):\n    z = x\n    return z / y\ntrain(1, y=0)\n"))
    assert (trace.text, trace.leads) == ("ZeroDivisionError: division by zero", "")
    outer, inner = trace.frames[-2:]
    assert (outer.function, outer.line) == ("<module>", 4)
    assert (inner.function, inner.arguments, inner.line, inner.users) == ("train", ("x", "y"), 3, True)
    assert inner.source[inner.line - inner.first_line] == "    return z / y"
    if sys.version_info >= (3, 11):
        assert inner.columns == (11, 16)


def test_columns_count_characters():
    (trace,) = chain_of(caught("text = 'äöü'; text.index('x')\n"))
    frame = trace.frames[-1]
    if sys.version_info >= (3, 11):
        assert frame.source[0][slice(*frame.columns)] == "text.index('x')"


def test_the_chain_as_python_shows_it():
    source = "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e\n"
    assert [(t.text.split(":")[0], t.leads) for t in chain_of(caught(source))] == [
        ("ZeroDivisionError", "cause"),
        ("ValueError", ""),
    ]
    context = source.replace(" from e", "")
    assert [trace.leads for trace in chain_of(caught(context))] == ["context", ""]
    hidden = source.replace("from e", "from None")
    assert [trace.leads for trace in chain_of(caught(hidden))] == [""]


def test_a_chain_that_is_a_circle_ends():
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert [trace.text for trace in chain_of(first)] == ["ValueError: 2", "ValueError: 1"]


def test_recursion_is_one_frame_with_a_count():
    (trace,) = chain_of(caught("def again(n):\n    return again(n + 1)\nagain(0)\n"))
    assert trace.frames[-1].times > 900
    assert len(trace.frames) < 10


def test_two_functions_that_call_each_other_stay_within_bounds():
    (trace,) = chain_of(caught("def a(): b()\ndef b(): a()\na()\n"))
    assert len(trace.frames) == 80


def test_a_long_text_is_cut_and_counted():
    (trace,) = chain_of(ValueError("\n".join(map(str, range(1000)))))
    assert (len(trace.text.splitlines()), trace.left_out_lines) == (40, 960)


def test_notes_are_told():
    error = ValueError("x")
    error.__notes__ = ["seen in epoch 3"]  # what add_note of Python 3.11 does
    (trace,) = chain_of(error)
    assert trace.text == "ValueError: x\nseen in epoch 3"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no groups of exceptions")
def test_each_of_a_groups_errors_is_told_with_its_place():
    source = (
        "def fail():\n    raise KeyError('a')\n"
        "try:\n    fail()\nexcept KeyError as e:\n    raise ExceptionGroup('both', [e, ValueError('b')])\n"
    )
    trace = chain_of(caught(source))[-1]
    assert trace.text.splitlines() == [
        "ExceptionGroup: both (2 sub-exceptions)",
        "  1: KeyError: 'a' (File \"<cell of a test>\", line 2, in fail)",
        "  2: ValueError: b",
    ]


def test_what_torch_carried_from_a_worker_is_unpacked():
    torch_utils = pytest.importorskip("torch._utils")
    error = caught("def item(i):\n    raise ValueError(f'bad {i}\\nand worse')\nitem(3)\n")
    wrapper = torch_utils.ExceptionWrapper((ValueError, error, error.__traceback__), "in DataLoader worker process 1")
    with pytest.raises(ValueError) as reraised:
        wrapper.reraise()
    worker, rank = chain_of(reraised.value)
    assert carried(reraised.value) == ("ValueError: bad 3\nand worse", "in DataLoader worker process 1")
    assert (worker.text, worker.leads) == ("ValueError: bad 3\nand worse", "worker")
    assert (worker.frames[-1].function, worker.frames[-1].line) == ("item", 2)
    assert worker.frames[-1].source[1].startswith("    raise ValueError")
    assert rank.text == "ValueError: caught in DataLoader worker process 1, see above"


def test_an_ordinary_error_was_not_carried():
    assert carried(ValueError("Caught a cold in winter.\nOriginal")) is None


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_without_words():
    (trace,) = chain_of(MuteError())
    assert trace.text.startswith(("MuteError", "tests.unit.test_traces.MuteError"))
    assert carried(MuteError()) is None
