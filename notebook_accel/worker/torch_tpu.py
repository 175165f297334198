"""The supervisor of a run through ``torch_tpu``, EXPERIMENTAL: written to its Python sources, never run on a TPU."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from typing import NoReturn

from notebook_accel import environment
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import execed


def supervisor_main(control_descriptor: int, kernel_pid: int) -> NoReturn:
    """Wait for the one run of this process, supervise it, and end."""
    execed.supervise(control_descriptor, kernel_pid, with_launch_environment)


def with_launch_environment(start: StartRun) -> StartRun:
    """Add what all ranks must agree on before one of them lives: where each listens, and how the chips lie.

    It changes the environment of this process, and imports torch_tpu, which does not start the TPU.

    Raises:
        RuntimeError: torch_tpu has no topology for so many ranks.

    Source: torch_tpu 0.2.0, ``_internal/distributed/distributed.py``
    """
    environment.replace(start.environ)
    importlib.import_module("torch")
    launching = importlib.import_module("torch.tpu.distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is experimental: the launch has said so
        launching.set_tpu_launch_env(nproc_per_node=start.world_size)
    return replace(start, environ=environment.current())
