"""A rank of its own for every test of the core."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch._dynamo  # noqa: F401 - sets a variable when the first optimizer loads it, which would look like a leak

from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.world import World


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """Make this process the one rank of a run on the CPU."""
    with activate(Runtime(World())) as active:
        yield active


@pytest.fixture
def handler_of_dead_workers() -> Iterator[None]:
    """Take back the signal handler that torch installs with its first worker."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)
