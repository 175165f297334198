from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path

import pytest

pytest.importorskip("torch")

from notebook_accel import notebook_launcher
from notebook_accel.errors import RankFailed, ResultUnavailable, RunInterrupted, RunTimedOut
from notebook_accel.launch import start
from notebook_accel.launch.run import Run
from tests.unit.launch.runs import background, ended_runs, helper, until_said

__all__ = ["ended_runs", "helper"]


@pytest.fixture
def gate():
    """A named pipe at which runs wait until a test opens it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gate"
        os.mkfifo(path)
        yield str(path)


def waiting(gate: str, value: object = "value") -> object:
    """Print, wait at the gate, and return."""
    print("ready", flush=True)
    with open(gate) as file:
        file.read()
    return value


def by_value(function):
    """Let it travel as a cell's function does."""
    function.__module__ = "__main__"
    return function


by_value(waiting)


def open_gate(gate: str) -> None:
    with open(gate, "w"):
        pass


def test_waiting_tells_whether_the_end_has_come(gate: str):
    run = background(waiting, gate)
    until_said(run, "ready")
    assert (run.wait(0), run.wait(0.01), run.state) == (False, False, "running")
    open_gate(gate)
    assert (run.wait(60), run.wait(), run.wait(0), run.state) == (True, True, True, "succeeded")


def test_a_running_run_can_be_looked_at(gate: str):
    run = background(waiting, gate)
    until_said(run, "ready")
    assert run.logs() == run.logs(0) == "ready\n"
    with pytest.raises(IndexError, match=r"rank 1 is not one of the run's ranks 0\.\.0"):
        run.logs(1)
    assert repr(run).startswith("Run(waiting: 1 CPU process, running for ")
    open_gate(gate)
    assert run.result().value == "value"
    assert repr(run) == "Run(waiting: 1 CPU process, succeeded)"


def test_a_page_shows_text_as_text():
    function = by_value(lambda: 1)
    function.__name__ = "<b>bold</b>"
    run = background(function)
    run.wait()
    assert run._repr_html_() == "<code>Run(&lt;b&gt;bold&lt;/b&gt;: 1 CPU process, succeeded)</code>"


def test_the_event_loop_goes_on_while_runs_are_awaited(gate: str):
    async def main() -> tuple[object, ...]:
        first, second = background(waiting, gate, 1), background(by_value(lambda: 2))
        assert (await second).value == 2
        assert first.state == "running", "awaiting one does not wait for the other"
        await asyncio.to_thread(open_gate, gate)
        results = await asyncio.gather(awaited(first), awaited(second))
        return tuple(result.value for result in results)

    async def awaited(run: Run):
        return await run

    assert asyncio.run(main()) == (1, 2)


def test_a_failed_run_raises_where_it_is_awaited():
    async def main() -> None:
        await background(by_value(lambda: 1 / 0))

    with pytest.raises(RankFailed, match="ZeroDivisionError"):
        asyncio.run(main())


def test_a_cancelled_await_leaves_the_run_alone(gate: str):
    run = background(waiting, gate)
    until_said(run, "ready")

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(awaited(), 0.01)

    async def awaited():
        return await run

    asyncio.run(main())
    assert run.state == "running"
    open_gate(gate)
    assert run.result().value == "value", "it ends although the loop that waited for it is closed"


def test_callbacks_are_called_once_at_the_end_or_at_once_after_it(gate: str):
    run = background(waiting, gate)
    called: list[str] = []
    states: list[str] = []
    run.when_ended(lambda: called.append("first"))
    run.when_ended(lambda: states.append(run.state))
    until_said(run, "ready")
    assert called == []
    open_gate(gate)
    run.wait()
    assert (called, states) == (["first"], ["succeeded"])
    run.when_ended(lambda: called.append("late"))
    assert called == ["first", "late"]


def test_stopping_waits_for_the_end(gate: str):
    run = background(waiting, gate, num_processes=2)
    until_said(run, "ready", 2)
    run.stop()
    assert run.state == "interrupted"
    with pytest.raises(RunInterrupted, match="waiting was interrupted before it had returned on every rank") as caught:
        run.result()
    assert caught.value.result.logs(1) == "ready\n"
    assert [run.stop(), run.interrupt(), run.kill()] == [None] * 3
    assert run.state == "interrupted"


@by_value
def catching(gate: str) -> str:
    try:
        print("ready", flush=True)
        with open(gate) as file:
            file.read()
    except KeyboardInterrupt:
        return "the best so far"
    return "all of it"


def test_a_function_may_answer_an_interrupt_with_a_value(gate: str):
    run = background(catching, gate, num_processes=2)
    until_said(run, "ready", 2)
    run.interrupt()
    assert list(run.result()) == ["the best so far"] * 2
    assert run.state == "succeeded"


@by_value
def failing_first(gate: str) -> None:
    if os.environ["RANK"] == "1":
        raise LookupError("on its own")
    print("ready", flush=True)
    with open(gate) as file:
        file.read()


def test_a_failure_before_an_interrupt_stays_one(gate: str):
    run = background(failing_first, gate, num_processes=2, grace_seconds=60)
    until_said(run, "ready")
    while run._ranks[1].report.exited is None:
        assert not run.wait(0.01)
    run.interrupt()
    with pytest.raises(RankFailed, match="rank 1 of 2 failed first: LookupError: on its own"):
        run.result()
    assert run.state == "failed"


def test_showing_goes_on_until_the_end(capsys: pytest.CaptureFixture[str], gate: str):
    run = background(waiting, gate)
    thread = threading.Thread(target=open_gate, args=(gate,))
    thread.start()
    run.show()
    thread.join()
    assert run.state == "succeeded"
    assert capsys.readouterr().out == "ready\n"
    run.show()
    assert capsys.readouterr().out == "", "what was shown is not shown again"


def fail_on_rank_1(gate: str) -> object:
    """Fail once rank 0's process, which holds the gate's other end, has ended."""
    if os.environ["RANK"] == "0":
        os.open(gate, os.O_WRONLY)
        return threading.Lock()
    waiting(gate)
    raise LookupError("nothing here")


def test_showing_says_how_it_ended(capsys: pytest.CaptureFixture[str], gate: str):
    background(fail_on_rank_1, gate, num_processes=2).show()
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["[rank 1] ready", "notebook_accel: fail_on_rank_1 failed; .result() says why"]
    assert said[2].startswith("notebook_accel: rank 0 returned, but a value of type lock cannot be sent back")


def test_an_interrupt_only_stops_the_showing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gate: str
):
    import signal

    run = background(waiting, gate)
    until_said(run, "ready")
    pressed = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pressed.start()
        run.show()
    finally:
        signal.signal(signal.SIGINT, before)
    pressed.join()
    assert capsys.readouterr().out == "notebook_accel: waiting goes on; .stop() ends it, .show() shows more\n"
    assert run.state == "running"
    open_gate(gate)
    assert run.result().value == "value"


def test_the_other_ranks_values_may_stay_where_they_are(capsys: pytest.CaptureFixture[str]):
    function = by_value(lambda: os.environ["RANK"])
    result = notebook_launcher(function, num_processes=2, devices="cpu", returns="rank0")
    assert (result.value, len(result)) == ("0", 2)
    with pytest.raises(ResultUnavailable, match=r'rank 1: only rank 0\'s value was asked for \(returns="rank0"\)'):
        result[1]
    assert "only rank 0's value" in repr(result)
    assert capsys.readouterr().out == "notebook_accel: 2 CPU processes, gloo\n", "that is no reason for a notice"


def timed_out(function, *args: object, seconds: float = 2, **config: object) -> RunTimedOut:
    run = background(function, *args, timeout_seconds=seconds, **config)
    with pytest.raises(RunTimedOut) as caught:
        run.result()
    assert run.state == "timed out"
    assert caught.value.result is not None
    return caught.value


@by_value
def sleeping() -> str:
    import time

    if os.environ["RANK"] == "1":
        return "early"
    print("asleep", flush=True)
    time.sleep(600)  # here it sleeps
    return "late"


def line_of(text: str) -> int:
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.strip() == text)


def test_a_timeout_says_where_each_rank_was_that_had_not_ended():
    error = timed_out(sleeping, num_processes=2)
    line = "time.sleep(600)  # here it sleeps"
    assert error.places == {0: f"in sleeping (test_run.py, line {line_of(line)}): {line}"}
    assert error.what == "sleeping had not ended after timeout_seconds=2"
    assert (error.result[1], error.result.logs(0)) == ("early", "asleep\n")


@by_value
def holding_the_interpreter() -> None:
    import ctypes

    ctypes.PyDLL(None).usleep(900_000_000)  # native, with the GIL


def test_a_timeout_says_where_native_code_was_called():
    error = timed_out(holding_the_interpreter)
    line = "ctypes.PyDLL(None).usleep(900_000_000)  # native, with the GIL"
    assert error.places == {0: f"in holding_the_interpreter (test_run.py, line {line_of(line)}): {line}"}


@by_value
def meeting() -> None:
    import time

    import torch.distributed

    torch.distributed.init_process_group("gloo")
    print("met", flush=True)
    if torch.distributed.get_rank() == 1:
        time.sleep(600)  # never comes
    torch.distributed.barrier()  # waits for the other


def test_a_timeout_says_who_waits_for_whom():
    error = timed_out(meeting, num_processes=2, seconds=4)
    assert error.result.logs(0) == error.result.logs(1) == "met\n"
    assert error.places[0].endswith("torch.distributed.barrier()  # waits for the other")
    assert error.places[1].endswith("time.sleep(600)  # never comes")


def test_the_last_run_is_kept():
    assert start.last_run() is None
    run = background(by_value(lambda: 3))
    assert start.last_run() is run
    assert run.result().value == 3
