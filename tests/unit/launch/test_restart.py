from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("torch")

from notebook_accel import notebook_launcher
from notebook_accel.errors import LaunchError, RankFailed, RunInterrupted, RunTimedOut
from notebook_accel.launch.restart import RestartingRun, place_of_failure
from notebook_accel.origins import is_users
from notebook_accel.traces import Frame, Trace
from notebook_accel.wire.outcome import Failure
from tests.unit.launch.runs import background, ended_runs, helper, open_descriptors, until_said

__all__ = ["ended_runs", "helper"]


def by_value(function):
    """Let it travel as a cell's function does."""
    function.__module__ = "__main__"
    return function


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@by_value
def failing(times: int) -> tuple[str, str, str]:
    names = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RUN_ID")
    count, most, run_id = (os.environ[name] for name in names)
    print(f"attempt {count}", flush=True)
    if count == "0" and times > 0:
        raise LookupError("attempt 0")
    if count == "1" and times > 1:
        raise LookupError("attempt 1")
    if count == "2" and times > 2:
        raise LookupError("attempt 2")
    return count, most, run_id


def test_a_run_that_fails_is_started_again_and_its_ranks_know():
    run = background(failing, 2, num_processes=2, max_restarts=3, run_id="mine")
    shown = "".join(run.output())
    assert isinstance(run, RestartingRun)
    assert list(run.result()) == [("2", "3", "mine")] * 2
    assert (run.state, run.logs(1), run.notices()) == ("succeeded", "attempt 2\n", [])
    assert [error.exception.args for error in run.earlier_failures] == [("attempt 0",), ("attempt 1",)]
    assert [error.result.logs(1) for error in run.earlier_failures] == ["attempt 0\n", "attempt 1\n"]
    assert run.result().earlier_failures == tuple(run.earlier_failures)
    assert run.result() is run.result()
    assert (run.stacks(), run.hang) == ({}, None)
    assert shown.count("failed first: LookupError: attempt 0; restart 1 of 3\n") == 1
    assert shown.count("failed first: LookupError: attempt 1; restart 2 of 3\n") == 1
    assert shown.index("attempt 0") < shown.index("restart 1") < shown.index("restart 2")


def test_it_gives_up_with_the_last_failure():
    run = background(failing, 9, max_restarts=1)
    for _ in range(2):
        with pytest.raises(RankFailed, match="LookupError: attempt 1") as caught:
            run.result()
    assert run.state == "failed"
    assert caught.value.result.logs() == "attempt 1\n"
    assert len(run.earlier_failures) == 1
    assert caught.value.result.earlier_failures[0].result.logs() == "attempt 0\n"


@by_value
def failing_always() -> None:
    import time

    print(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", flush=True)
    if os.environ["RANK"] == "1":
        raise LookupError(f"at {time.monotonic()}")
    time.sleep(600)


def test_what_fails_in_the_same_place_twice_is_not_started_again():
    run = background(failing_always, num_processes=2, max_restarts=5, grace_seconds=0)
    shown = "".join(run.output())
    with pytest.raises(RankFailed, match="LookupError: at ") as caught:
        run.result()
    assert shown.count("restart 1 of 5\n") == 1
    assert shown.count("; failed in the same place twice: not started again\n") == 1
    assert [error.result.logs(1) for error in run.earlier_failures] == ["attempt 0\n"]
    assert caught.value.result.logs(1) == "attempt 1\n"


@by_value
def killed(times: int) -> int:
    import signal

    from notebook_accel import Accelerator

    accelerator = Accelerator()
    print(f"attempt {accelerator.attempt}", flush=True)
    if accelerator.attempt < times and accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    accelerator.wait_for_everyone()
    return accelerator.attempt


def test_a_rank_that_is_killed_may_be_killed_in_the_same_place():
    run = background(killed, 3, num_processes=2, max_restarts=3)
    assert list(run.result()) == [3, 3]
    assert len(run.earlier_failures) == 3
    assert {error.failures[0].signal_name for error in run.earlier_failures} == {"SIGKILL"}


def failed(headline: str, *places: tuple[str, int], knock_on: bool = False) -> RankFailed:
    frames = tuple(Frame(file=file, line=line, function="f", users=is_users(file)) for file, line in places)
    chain = (Trace(text=headline, frames=frames),) if places else ()
    failure = Failure(rank=1, headline=headline, hint="", at_seconds=0.0, chain=chain, knock_on=knock_on)
    return RankFailed((failure,), 2)


def test_where_a_function_failed():
    library = (json.__file__, 7)
    error = failed("KeyError: 'a'", ("train.py", 3), ("data.py", 9), library)
    assert place_of_failure(error) == ("KeyError", "data.py", 9)
    assert place_of_failure(failed("KeyError", library)) == ("KeyError", json.__file__, 7)
    same = failed("KeyError: 'b'", ("other.py", 1), ("data.py", 9), library)
    assert place_of_failure(same) == place_of_failure(failed("KeyError: 'a'", ("data.py", 9)))


def test_what_only_follows_from_anothers_end_has_no_place():
    assert place_of_failure(failed("RuntimeError: Connection closed", ("train.py", 3), knock_on=True)) is None


def test_what_has_no_traceback_has_no_place():
    assert place_of_failure(failed("the process ended with exit code 3 before the function returned")) is None


def test_without_restarts_there_are_none():
    run = background(failing, 1)
    assert not isinstance(run, RestartingRun)
    with pytest.raises(RankFailed, match="attempt 0"):
        run.result()


@by_value
def failing_then_waiting() -> None:
    import time

    print("attempt", flush=True)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise LookupError
    print("waiting", flush=True)
    time.sleep(600)


@pytest.mark.parametrize("order", ["stop", "kill", "interrupt"])
def test_a_run_that_is_ended_is_not_started_again(order: str):
    run = background(failing_then_waiting, max_restarts=5)
    until_said(run, "waiting")
    getattr(run, order)()
    with pytest.raises(RunInterrupted):
        run.result()
    assert (run.state, len(run.earlier_failures)) == ("interrupted", 1)
    assert run.stop() is None


@by_value
def failing_until_asked_to_stop() -> str:
    from notebook_accel import Accelerator

    print("attempt", flush=True)
    while not Accelerator().should_stop:
        pass
    raise LookupError("after the request")


def test_a_run_that_was_asked_to_stop_is_not_started_again():
    run = background(failing_until_asked_to_stop, max_restarts=5)
    until_said(run, "attempt")
    run.request_stop()
    with pytest.raises(RankFailed, match="after the request"):
        run.result()
    assert run.earlier_failures == []


@by_value
def stopping_in_the_second_attempt() -> str:
    from notebook_accel import Accelerator

    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise LookupError
    while not Accelerator().should_stop:
        pass
    return "stopped"


def test_a_request_between_two_attempts_reaches_the_next(monkeypatch: pytest.MonkeyPatch):
    restart = RestartingRun._restart

    def ask_first(run: RestartingRun, failure: RankFailed) -> None:
        run.request_stop()  # to an attempt that has ended
        restart(run, failure)

    monkeypatch.setattr(RestartingRun, "_restart", ask_first)
    run = background(stopping_in_the_second_attempt, max_restarts=5)
    assert run.result().value == "stopped"


def test_a_run_that_is_stopped_between_two_attempts_ends(monkeypatch: pytest.MonkeyPatch):
    restart = RestartingRun._restart

    def stop_first(run: RestartingRun, failure: RankFailed) -> None:
        run.interrupt()  # to an attempt that has ended
        restart(run, failure)

    monkeypatch.setattr(RestartingRun, "_restart", stop_first)
    run = background(failing_then_waiting, max_restarts=5)
    with pytest.raises(RunInterrupted):
        run.result()
    assert run.state == "interrupted"


def test_an_attempt_that_cannot_be_started_is_the_end(monkeypatch: pytest.MonkeyPatch):
    def fail(_run: RestartingRun, _failure: RankFailed) -> None:
        raise LaunchError("no more", "hint")

    monkeypatch.setattr(RestartingRun, "_restart", fail)
    run = background(failing, 9, max_restarts=1)
    with pytest.raises(LaunchError, match="no more"):
        run.result()
    assert run.state == "failed"


@by_value
def slow(folder: str) -> None:
    import time

    (Path(folder) / os.environ["TORCHELASTIC_RESTART_COUNT"]).touch()
    if len(os.listdir(folder)) > 1:
        time.sleep(600)
    time.sleep(0.5)
    raise LookupError


def test_the_time_is_that_of_all_attempts(folder: str):
    run = background(slow, folder, max_restarts=5, timeout_seconds=4)
    with pytest.raises(RunTimedOut, match="timeout_seconds=4"):
        run.result()
    assert run.state == "timed out"
    assert sorted(os.listdir(folder)) == ["0", "1"], "one that had its time is not started again"
    assert len(run.earlier_failures) == 1


def test_in_this_process(capsys: pytest.CaptureFixture[str]):
    result = notebook_launcher(
        failing, (2,), num_processes=1, devices="cpu", start_method="inline", max_restarts=2, rdzv_id="x"
    )
    assert result.value[:2] == ("2", "2")
    shown = capsys.readouterr().out
    assert [text in shown for text in ("restart 1 of 2", "restart 2 of 2", "attempt 2")] == [True] * 3


def test_in_this_process_it_gives_up_too():
    with pytest.raises(RankFailed, match="attempt 1"):
        notebook_launcher(failing, (9,), num_processes=1, devices="cpu", start_method="inline", max_restarts=1)


def test_in_the_background_of_a_notebook():
    run = notebook_launcher(failing, (1,), 1, devices="cpu", max_restarts=1, block=False)
    assert run.result().value[:2] == ("1", "1")


def test_attempts_leave_nothing_open():
    counts = []
    for _ in range(2):
        run = background(failing, 3, max_restarts=3)
        assert run.result().value[0] == "3"
        del run
        counts.append(open_descriptors())
    assert counts[0] == counts[1]
