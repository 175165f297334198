from __future__ import annotations

import inspect
import pickle

import pytest

from notebook_accel import errors
from notebook_accel.errors import (
    AccelError,
    ConfigError,
    NotInWorkerError,
    RankFailed,
    RunHung,
    RunInterrupted,
    RunTimedOut,
)
from notebook_accel.wire.outcome import Failure

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, AccelError)]


def failure(rank: int = 1, **more: object) -> Failure:
    return Failure(rank=rank, headline=f"ValueError: {rank}", hint="look at the cell", at_seconds=rank, **more)


def example(cls: type[AccelError]) -> AccelError:
    if cls is NotInWorkerError:
        return NotInWorkerError()
    if cls is RankFailed:
        return RankFailed((failure(1), failure(0)), 2)
    if issubclass(cls, RunTimedOut):
        return cls("the kettle is slow", "wait", {0: "in train (<cell 1>, line 7)", 2: "in another"})
    return cls("the kettle is empty", "fill it")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_hint_and_shows_it_last(cls):
    error = example(cls)
    assert error.what
    assert error.hint
    assert str(error).splitlines()[-1] == f"  -> {error.hint}"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_travels_between_processes(cls):
    error = example(cls)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(error, protocol))
        assert type(copy) is cls
        assert (str(copy), copy.what, copy.hint) == (str(error), error.what, error.hint)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_stands_in_the_modules_tree(cls):
    assert f" {cls.__name__} " in " " + errors.__doc__.replace("\n", " ")


def test_attributes_set_later_travel_too():
    error = AccelError("what", "hint")
    error.where = "cell 3"
    assert pickle.loads(pickle.dumps(error)).where == "cell 3"


def test_errors_are_what_callers_of_plain_python_expect():
    assert issubclass(ConfigError, ValueError)
    assert issubclass(errors.PayloadError, TypeError)
    assert issubclass(RankFailed, RuntimeError)


def test_a_failed_rank_is_named_with_its_traceback_and_the_others_in_a_line_each():
    error = RankFailed((failure(1, traceback="Traceback ...\nValueError: 1\n"), failure(0)), 2)
    assert (error.rank, error.world_size) == (1, 2)
    assert str(error).splitlines() == [
        "rank 1 of 2 failed first: ValueError: 1",
        "Traceback ...",
        "ValueError: 1",
        "rank 0 afterwards: ValueError: 0",
        "  -> look at the cell",
    ]
    assert error._render_traceback_()[0] == "RankFailed: rank 1 of 2 failed first: ValueError: 1"


def test_one_failed_rank_of_one_is_not_called_the_first():
    assert RankFailed((failure(0),), 1).what == "rank 0 of 1 failed: ValueError: 0"


def test_the_ranks_exception_is_given_back_where_it_can_be_loaded():
    loaded = RankFailed((failure(exception_pickle=pickle.dumps(KeyError("lr"))),), 2).exception
    assert isinstance(loaded, KeyError)
    assert loaded.args == ("lr",)
    assert RankFailed((failure(),), 2).exception is None
    assert RankFailed((failure(exception_pickle=b"no pickle"),), 2).exception is None
    assert RankFailed((failure(exception_pickle=pickle.dumps("no exception")),), 2).exception is None


@pytest.mark.parametrize("cls", [RankFailed, RunHung, RunInterrupted, RunTimedOut], ids=lambda cls: cls.__name__)
def test_the_result_stays_behind_when_a_failure_travels(cls):
    error = example(cls)
    assert error.result is None
    error.result = object()
    assert pickle.loads(pickle.dumps(error)).result is None


def test_an_interrupted_run_says_where_each_rank_was():
    error = pickle.loads(pickle.dumps(RunInterrupted("the kettle is off", "fill it", {1: "had returned", 0: "in tea"})))
    assert error.places == {0: "in tea", 1: "had returned"}
    assert str(error).splitlines() == [
        "the kettle is off",
        "  rank 0: in tea",
        "  rank 1: had returned",
        "  -> fill it",
    ]
    assert error._render_traceback_() == ["RunInterrupted: the kettle is off", *str(error).splitlines()[1:]]
    assert RunInterrupted("nobody could say", "hint").places == {}


def test_a_run_that_had_its_time_says_where_each_rank_was():
    error = pickle.loads(pickle.dumps(example(RunTimedOut)))
    assert error.places == {0: "in train (<cell 1>, line 7)", 2: "in another"}
    assert str(error).splitlines() == [
        "the kettle is slow",
        "  rank 0: in train (<cell 1>, line 7)",
        "  rank 2: in another",
        "  -> wait",
    ]
    assert error._render_traceback_() == ["RunTimedOut: the kettle is slow", *str(error).splitlines()[1:]]
    assert isinstance(error, TimeoutError)
