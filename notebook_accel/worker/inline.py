"""Run a function as the one rank of a world of one, in the process that asks for it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.world import World


def call(function: Callable[[], Any], world: World, mixed_precision: str, seed: int | None, threads: int | None) -> Any:
    """Call ``function`` as rank 0 of 1 and leave this process's generators and thread count as they were."""
    from notebook_accel.worker.freshness import take_random_state  # noqa: PLC0415 - shares its imports

    with _random_state_kept(seed is not None), _threads(threads), activate(Runtime(world, mixed_precision)) as runtime:
        if seed is not None:
            take_random_state(seed)
        try:
            return function()
        finally:
            runtime.close()


@contextmanager
def _random_state_kept(keep: bool) -> Iterator[None]:
    if not keep:
        yield
        return
    numpy = sys.modules.get("numpy")
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
