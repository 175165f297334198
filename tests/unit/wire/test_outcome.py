from __future__ import annotations

import dataclasses
import pickle

import cloudpickle
import pytest

from notebook_accel.wire.outcome import Failure, Raised, Returned, Unreturnable


def failure(data: bytes | None = None) -> Failure:
    return Failure(rank=1, headline="ValueError: x", hint="h", at_seconds=2.0, exception_pickle=data)


class NeedsTwoError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class RudeError(Exception):
    def __setstate__(self, state: object) -> None:
        raise RuntimeError("never again")


def rude() -> RudeError:
    error = RudeError("x")
    error.detail = "state to set"
    return error


@pytest.mark.parametrize("error", [ValueError("x", 3), KeyError("k"), KeyboardInterrupt(), SystemExit(4)])
def test_an_exception_comes_back(error: BaseException):
    found = failure(pickle.dumps(error)).load_exception()
    assert type(found) is type(error)
    assert found.args == error.args


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        pickle.dumps(ValueError("x"))[:-3],
        pickle.dumps("not an exception"),
        pickle.dumps(ValueError),
        b"cno_such_module_anywhere\nError\n.",
        b"cbuiltins\nNoSuchError\n.",
        cloudpickle.dumps(NeedsTwoError(1, 2)),
        cloudpickle.dumps(rude()),
    ],
    ids=["none", "empty", "cut", "text", "class", "no module", "no class", "own __init__", "raises in __setstate__"],
)
def test_what_cannot_be_rebuilt_is_none(data: bytes | None):
    assert failure(data).load_exception() is None


def test_each_call_rebuilds_the_exception():
    given = failure(pickle.dumps(ValueError("x")))
    assert given.load_exception() is not given.load_exception()


@pytest.mark.parametrize("outcome", [Returned("42"), Unreturnable("a lock"), Raised(failure(b"data"))])
def test_outcomes_are_values(outcome: Returned | Unreturnable | Raised):
    assert pickle.loads(pickle.dumps(outcome)) == outcome
    hash(outcome)
    (field, *_) = dataclasses.fields(outcome)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(outcome, field.name, None)
