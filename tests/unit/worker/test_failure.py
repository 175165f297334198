from __future__ import annotations

import threading

import pytest

from notebook_accel.worker.failure import describe


class AwkwardError(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def failing(error: BaseException, cause: BaseException | None = None) -> BaseException:
    def fail() -> None:
        raise error from cause

    try:
        fail()
    except BaseException as caught:
        return caught


def test_what_travels():
    failure = describe(failing(ValueError("first\nsecond")), 3)
    assert (failure.rank, failure.headline) == (3, "ValueError: first")
    assert failure.traceback.startswith("Traceback (most recent call last):")
    assert failure.traceback.endswith("ValueError: first\nsecond\n")
    assert isinstance(failure.load_exception(), ValueError)
    assert failure.hint


def test_the_chain_is_kept():
    failure = describe(failing(ValueError("effect"), KeyError("cause")), 0)
    assert "KeyError: 'cause'" in failure.traceback
    assert "direct cause" in failure.traceback


@pytest.mark.parametrize(
    ("error", "headline"),
    [
        (AwkwardError(4, detail="lost"), "AwkwardError: 4: lost"),
        (ValueError(threading.Lock()), "ValueError: <unlocked _thread.lock"),
    ],
)
def test_an_exception_that_cannot_travel_leaves_its_text(error: BaseException, headline: str):
    failure = describe(failing(error), 0)
    assert failure.exception_pickle is None
    assert failure.headline.startswith(headline)
    assert failure.headline in failure.traceback


def test_an_exception_without_words():
    failure = describe(failing(MuteError()), 0)
    assert failure.headline == "MuteError: (its text cannot be shown)"
    assert "test_failure.py" in failure.traceback
    assert describe(failing(KeyboardInterrupt()), 0).headline == "KeyboardInterrupt"
    assert "return" in describe(failing(SystemExit(3)), 0).hint
