from __future__ import annotations

import os
import sys
import threading

import pytest

from notebook_accel.origins import _PACKAGE_FOLDER
from notebook_accel.worker.failure import call_to_its_end, describe


class AwkwardError(Exception):
    def __init__(self, code: int, *, detail: object) -> None:
        super().__init__(f"{code}: {detail}")
        self.detail = detail


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
        (AwkwardError(4, detail=threading.Lock()), "AwkwardError: 4: <unlocked"),
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


class OddError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "gone", path)


class TwiceError(Exception):
    """It can be pickled, and says something else when it comes back."""

    def __init__(self, code: object) -> None:
        super().__init__(f"code {code}")


@pytest.mark.parametrize(
    "error", [AwkwardError(4, detail="lost"), OddError("a.txt"), TwiceError(3)], ids=lambda error: type(error).__name__
)
def test_an_exception_with_an_init_of_its_own_comes_back_as_it_was(error: BaseException):
    found = describe(failing(error), 0).load_exception()
    assert type(found) is type(error)
    assert (str(found), found.args) == (str(error), error.args)
    assert found.__dict__ == error.__dict__


def test_frames_travel_with_it():
    (trace,) = describe(failing(ValueError("x")), 0).chain
    assert trace.frames[-1].function == "fail"
    assert "raise error from cause" in trace.frames[-1].source[trace.frames[-1].line - trace.frames[-1].first_line]


def test_the_launchers_own_error_has_its_own_hint():
    from notebook_accel.errors import ConfigError

    assert describe(failing(ConfigError("what", "do that")), 0).hint == "do that"


@pytest.mark.parametrize("code", [None, 0, False])
def test_an_exit_without_a_complaint_is_a_return(code: object):
    assert call_to_its_end(sys.exit, (code,), {}) == (None, True)
    assert call_to_its_end(max, (1, 2), {}) == (2, False)


@pytest.mark.parametrize("code", [3, "no data", True])
def test_an_exit_with_a_complaint_is_a_failure(code: object):
    with pytest.raises(SystemExit) as caught:
        call_to_its_end(sys.exit, (code,), {})
    assert "sys.exit(0)" in describe(caught.value, 0).hint


CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 3 has a total capacity of 79.11 GiB of which 12.34 GiB is "
    "free. Process 4711 has 60.00 GiB memory in use. Including non-PyTorch memory, this process has 6.40 GiB memory in "
    "use. Of the allocated memory 5.00 GiB is allocated by PyTorch, and 500.00 MiB is reserved by PyTorch but "
    "unallocated. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True"
)


def test_a_gpu_without_memory():
    torch = pytest.importorskip("torch")
    failure = describe(failing(torch.OutOfMemoryError(CUDA)), 1)
    assert failure.headline == "OutOfMemoryError: no memory on GPU 3: 20.00 GiB asked for, 12.34 GiB free of 79.11 GiB"
    assert "batch size" in failure.hint
    assert "accumulate" in failure.hint
    assert "process 4711 holds 60.00 GiB" in failure.hint
    assert CUDA in failure.traceback
    short = describe(failing(torch.OutOfMemoryError("CUDA out of memory.")), 1)
    assert short.headline == "OutOfMemoryError: the GPU has no more memory"


def test_a_cpu_without_memory():
    torch = pytest.importorskip("torch")
    try:
        torch.empty(1 << 50)
    except RuntimeError as error:
        failure = describe(error, 0)
    assert failure.headline == "RuntimeError: no memory on the CPU: 4096 TiB asked for"
    assert "number of ranks" in failure.hint
    assert describe(failing(MemoryError()), 0).headline.startswith("MemoryError: no memory on the CPU")


@pytest.mark.parametrize(
    "text",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection reset by peer [::1]:4711",
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:144] no error, Broken pipe",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "NCCL communicator was aborted on rank 0.",
        "NCCL error: remote process exited or there was a network error, NCCL version 2.27",
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
        "Rank 0 successfully reached monitoredBarrier, but received errors; Rank 1 failed to pass monitoredBarrier",
        "sendBytes failed on SocketImpl(fd=55): Broken pipe",
    ],
)
def test_what_a_rank_sees_when_another_one_has_gone(text: str):
    assert describe(failing(RuntimeError(text)), 0).knock_on
    assert describe(failing(ValueError("wrapped"), failing(RuntimeError(text))), 0).knock_on
    assert not describe(failing(ValueError(text)), 0).knock_on


def test_a_closed_connection_is_anothers_end_where_ranks_meet():
    import multiprocessing

    here, there = multiprocessing.Pipe()
    there.close()
    with here, pytest.raises(EOFError) as caught:
        here.recv()
    assert describe(caught.value, 0).knock_on
    assert not describe(failing(EOFError("Ran out of input")), 0).knock_on


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), KeyError("gloo"), RuntimeError("store is empty")])
def test_an_error_of_its_own_is_no_knock_on(error: BaseException):
    assert not describe(failing(error), 0).knock_on
