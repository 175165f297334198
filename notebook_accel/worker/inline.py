"""Run a function as the one rank of a world of one, in the process that asks for it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from notebook_accel.core.runtime import Log, Runtime, activate
from notebook_accel.worker.children import main_sent_by_value
from notebook_accel.world import World


@dataclass(frozen=True)
class Options:
    """How a function is to run.

    Attributes:
        mixed_precision: what an ``Accelerator`` uses.
        seed: of all generators, None to leave them alone.
        threads: intra-op threads, None to leave them alone.
        log: takes what the function logs.
        resumes: the run is to go on from its last checkpoint.
    """

    mixed_precision: str
    seed: int | None
    threads: int | None
    log: Log
    resumes: bool = False


def call(function: Callable[[], Any], world: World, options: Options) -> Any:
    """Call ``function`` as rank 0 of 1 and leave this process's generators and thread count as they were."""
    from notebook_accel.worker.freshness import take_random_state  # noqa: PLC0415 - shares its imports

    seed = options.seed
    runtime = Runtime(world, options.mixed_precision, options.log, resumes=options.resumes)
    with _random_state_kept(seed is not None), _threads(options.threads), main_sent_by_value(), activate(runtime):
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
