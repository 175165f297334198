from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest

from notebook_accel.core.crashes import worker_crash
from tests.interrupting import is_interrupted


def end_long_after_its_files() -> None:
    os.closerange(0, 256)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    signal.pause()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the child runs none of the threads
@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError()])
def test_a_worker_whose_files_close_before_it_ends_is_named(error: Exception):
    worker = multiprocessing.get_context("fork").Process(target=end_long_after_its_files)
    worker.start()
    crash = worker_crash(error, SimpleNamespace(_workers=[worker]), 3)
    worker.join()
    worker.close()
    assert crash is not None
    assert "rank 3: worker 0 of 1 of its DataLoader was killed by SIGALRM" in str(crash)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # the child runs none of the threads
def test_a_worker_is_named_wherever_torch_says_meanwhile_that_it_was_killed():
    worker = multiprocessing.get_context("fork").Process(target=signal.pause)
    worker.start()
    worker.kill()
    worker.join()
    iterator, reset = SimpleNamespace(_workers=[worker]), ConnectionResetError("reset")
    for place in itertools.count(2):  # the first two are where it is called
        found: list[object] = []
        was_told = is_interrupted(
            lambda found=found: found.append(worker_crash(reset, iterator, 0)),
            place,
            lambda: RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. "),
        )
        if not was_told:
            break
        assert "rank 0: worker 0 of 1 of its DataLoader was killed by SIGKILL" in str(found), place
    worker.close()
    assert place > 10


def test_another_error_is_none_of_a_worker():
    assert worker_crash(ValueError("text"), SimpleNamespace(_workers=[]), 0) is None
    assert worker_crash(ConnectionResetError("a database's"), SimpleNamespace(_workers=[]), 0) is None
