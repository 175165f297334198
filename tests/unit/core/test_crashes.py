from __future__ import annotations

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest

from notebook_accel.core.crashes import worker_crash


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


def test_another_error_is_none_of_a_worker():
    assert worker_crash(ValueError("text"), SimpleNamespace(_workers=[]), 0) is None
    assert worker_crash(ConnectionResetError("a database's"), SimpleNamespace(_workers=[]), 0) is None
