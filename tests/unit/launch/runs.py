"""Start runs from one warm helper, and wait for what they say."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import forkserver, start
from notebook_accel.launch.job import Call
from notebook_accel.launch.run import Run
from tests.leaks import collect_garbage
from tests.ranks import keep_helper_warm


@pytest.fixture(scope="module", autouse=True)
def helper(marked_run: None) -> None:
    """One warm helper."""
    keep_helper_warm()


@pytest.fixture(autouse=True)
def ended_runs() -> Iterator[None]:
    """Let supervisors end before leaks are counted, and take no run from test to test."""
    yield
    left = start._ledger.running()
    for run in left:
        run.kill()
        run.wait()
    start._ledger.last = None
    collect_garbage()
    zygote = forkserver._keeper._zygote
    if zygote is not None:
        psutil.wait_procs(psutil.Process(zygote.pid).children(recursive=True), timeout=10)
    assert not left, "a test waits for its runs"


def background(function: Callable[..., Any], *args: Any, **config: Any) -> Run[Any]:
    """Start a function in the background, on one CPU rank if nothing else is said."""
    asked = RunConfig(**{"num_processes": 1, "devices": "cpu", **config})
    return start.launch(asked, Call(function, args))


def until_said(run: Run[Any], text: str, times: int = 1) -> str:
    """Read a run's output until it has said something."""
    seen = ""
    for part in run.output():
        seen += part
        if seen.count(text) >= times:
            return seen
    raise AssertionError(f"it ended without saying {text!r}:\n{seen}")


def gpus(count: int) -> Callable[[], Inventory]:
    """Give a probe that finds made-up GPUs."""
    return lambda: Inventory.fake(gpus=count)


def open_descriptors() -> int:
    """Count this process's descriptors."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
