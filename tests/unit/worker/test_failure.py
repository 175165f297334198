from __future__ import annotations

import os
import threading

import pytest

from notebook_accel.worker.failure import _PACKAGE_FOLDER, describe


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


def test_the_launchers_frames_are_not_shown():
    from notebook_accel.worker import inline
    from notebook_accel.world import World

    def train() -> None:
        raise ValueError("mine")

    try:
        inline.call(train, World(), inline.Options("no", None, None, lambda *_: None))
    except ValueError as error:
        failure = describe(error.with_traceback(error.__traceback__.tb_next), 0)
    assert "in train" in failure.traceback
    assert "notebook_accel" not in failure.traceback


def test_a_failure_of_the_launcher_itself_shows_its_frames():
    from notebook_accel.config import RunConfig
    from notebook_accel.errors import ConfigError

    try:
        RunConfig(num_processes=0)
    except ConfigError as error:
        failure = describe(error.with_traceback(error.__traceback__.tb_next), 0)
    assert "config.py" in failure.traceback
    assert isinstance(failure.load_exception(), ConfigError)


def test_a_users_folder_beside_the_package_is_the_users():
    module: dict[str, object] = {}
    exec(compile("def train(f): f()", f"{_PACKAGE_FOLDER.rstrip(os.sep)}_demo/train.py", "exec"), module)
    try:
        module["train"](lambda: 1 / 0)
    except ZeroDivisionError as error:
        failure = describe(error.with_traceback(error.__traceback__.tb_next), 0)
    assert "train.py" in failure.traceback


def test_the_context_the_notes_and_each_of_a_groups_errors_are_told():
    def handle() -> None:
        try:
            {}["first"]
        except KeyError:
            raise OSError("second")  # noqa: B904 - the context is the point

    try:
        handle()
    except OSError as error:
        caught = error
    text = describe(caught, 0).traceback
    assert text.index("KeyError: 'first'") < text.index("another exception occurred") < text.index("OSError: second")


def test_an_exception_of_a_class_that_exists_only_here_travels():
    class LocalError(Exception):
        pass

    found = describe(failing(LocalError("x", 1)), 0).load_exception()
    assert type(found) is LocalError
    assert found.args == ("x", 1)


@pytest.mark.parametrize(("error", "headline"), [(ValueError(), "ValueError"), (ValueError(" \n"), "ValueError")])
def test_nothing_to_say(error: BaseException, headline: str):
    assert describe(failing(error), 0).headline == headline


def test_endless_recursion_is_told_in_bounds():
    def again() -> None:
        again()

    try:
        again()
    except RecursionError as error:
        failure = describe(error, 0)
    assert failure.headline.startswith("RecursionError")
    assert len(failure.traceback) < 5000
    assert "more times" in failure.traceback
