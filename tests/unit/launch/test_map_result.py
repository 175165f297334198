from __future__ import annotations

import pickle

import pytest

from notebook_accel.errors import LaunchError, RankFailed, RunInterrupted
from notebook_accel.launch.map_result import MapResult
from notebook_accel.launch.output import RankOutput
from notebook_accel.launch.result import RunResult, Value
from notebook_accel.wire.outcome import Failure
from notebook_accel.wire.parcel import Parcel


def result(value: object, printed: bytes = b"") -> RunResult:
    outputs = (RankOutput(), RankOutput())
    outputs[0].add(printed)
    outputs[1].add(b"rank 1\n")
    return RunResult((Value(repr(value), Parcel(pickle.dumps(value))), Value("?")), outputs, 1.5)


def failed(printed: bytes = b"") -> RankFailed:
    error = RankFailed((Failure(rank=0, headline="ValueError: <no>", hint="look", at_seconds=1.0),), 2)
    error.result = result(None, printed)
    return error


@pytest.fixture
def mixed() -> MapResult:
    """One item that returned, one that failed, one that could not start, one that was never started."""
    results = (result("<i>", b"one\n"), None, None, None)
    errors = (None, failed(b"two\n"), LaunchError("no helper", "again"), None)
    return MapResult(("a", 2, [3], "x" * 1000), results, errors, 2.25)


def test_each_item_gives_its_value_or_raises_its_error(mixed: MapResult):
    assert (mixed[0], len(mixed)) == ("<i>", 4)
    with pytest.raises(RankFailed, match="ValueError: <no>"):
        mixed[1]
    with pytest.raises(LaunchError, match="no helper"):
        mixed[2]
    with pytest.raises(RunInterrupted, match="item 3 was not started: launch_map was interrupted"):
        mixed[3]
    for index in (4, 100):
        with pytest.raises(IndexError):
            mixed[index]
        with pytest.raises(IndexError):
            mixed.logs(index)


def test_iterating_raises_at_the_first_that_failed(mixed: MapResult):
    values = iter(mixed)
    assert next(values) == "<i>"
    with pytest.raises(RankFailed):
        next(values)


def test_failures_and_defaults(mixed: MapResult):
    assert mixed.failures == {1: mixed.errors[1], 2: mixed.errors[2]}
    assert mixed.value_or() == ["<i>", None, None, None]
    assert mixed.value_or("-") == ["<i>", "-", "-", "-"]


def test_logs_are_there_whether_it_failed_or_not(mixed: MapResult):
    assert [mixed.logs(index) for index in range(4)] == ["one\n", "two\n", "", ""]
    assert [mixed.logs(0, 1), mixed.logs(1, 1), mixed.logs(2, 1)] == ["rank 1\n", "rank 1\n", ""]
    with pytest.raises(IndexError, match="rank 2 is not one"):
        mixed.logs(0, 2)


def test_how_it_shows(mixed: MapResult):
    head, *lines = repr(mixed).split("\n  ")
    assert head == "MapResult(4 items, 2 failed, 2.25 s)"
    assert lines[:3] == ["'a': '<i>'", "2: failed: ValueError: <no>", "[3]: failed: no helper"]
    assert lines[3].endswith(": not started")
    assert len(lines[3]) < 100


def test_a_page_shows_text_as_text(mixed: MapResult):
    page = mixed._repr_html_()
    assert "<i>" not in page
    assert "<no>" not in page
    assert "&lt;i&gt;" in page
    assert "failed: ValueError: &lt;no&gt;" in page
    assert page.count("<tr>") == 5
    assert "<caption>4 items in 2.25 s, 2 failed</caption>" in page
    assert page.count("<td>1.50 s</td>") == 1


def test_nothing_failed_and_nothing_was_asked():
    empty = MapResult((), (), (), 0.0)
    assert (list(empty), empty.failures, empty.value_or(1), len(empty)) == ([], {}, [], 0)
    assert repr(empty) == "MapResult(0 items, 0 failed, 0.00 s)"
    assert "failed" not in empty._repr_html_()
