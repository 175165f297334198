"""Distributed PyTorch training started from a notebook cell.

    from notebook_accel import Accelerator, notebook_launcher

Importing this module loads neither torch nor a user interface: names are resolved when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from notebook_accel.lazy import resolver

if TYPE_CHECKING:
    from notebook_accel.config import RunConfig
    from notebook_accel.core.accelerator import Accelerator
    from notebook_accel.core.batch_size import find_executable_batch_size
    from notebook_accel.core.handlers import (
        AutocastKwargs,
        DistributedDataParallelKwargs,
        GradScalerKwargs,
        InitProcessGroupKwargs,
        ProfileKwargs,
    )
    from notebook_accel.core.lengths import LengthBuckets
    from notebook_accel.core.local_sgd import LocalSGD
    from notebook_accel.core.plugins import DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration
    from notebook_accel.core.rng import set_seed
    from notebook_accel.core.skipping import skip_first_batches
    from notebook_accel.core.states import PartialState
    from notebook_accel.core.weights.loading import load_checkpoint_in_model
    from notebook_accel.errors import (
        AccelError,
        CheckpointError,
        CheckpointNotFound,
        ConfigError,
        LaunchError,
        NoLengthError,
        NotAvailableError,
        NotInWorkerError,
        PayloadError,
        RankFailed,
        ResultUnavailable,
        RunHung,
        RunInterrupted,
        RunTimedOut,
        WorkerDied,
    )
    from notebook_accel.launch.compilations import clear_compilation_cache
    from notebook_accel.launch.many import launch_map
    from notebook_accel.launch.map_result import MapResult
    from notebook_accel.launch.notebook import debug_launcher, notebook_launcher
    from notebook_accel.launch.result import RunResult
    from notebook_accel.launch.run import Run
    from notebook_accel.launch.share import share
    from notebook_accel.launch.start import last_run
    from notebook_accel.launch.warm import warm
    from notebook_accel.wire.shared import Shared
    from notebook_accel.world import DistributedType, World

__version__ = "0.1.0"

_HOME = {
    "AccelError": "errors",
    "Accelerator": "core.accelerator",
    "AutocastKwargs": "core.handlers",
    "CheckpointError": "errors",
    "CheckpointNotFound": "errors",
    "ConfigError": "errors",
    "DataLoaderConfiguration": "core.plugins",
    "DistributedDataParallelKwargs": "core.handlers",
    "DistributedType": "world",
    "GradScalerKwargs": "core.handlers",
    "GradientAccumulationPlugin": "core.plugins",
    "InitProcessGroupKwargs": "core.handlers",
    "LaunchError": "errors",
    "LengthBuckets": "core.lengths",
    "LocalSGD": "core.local_sgd",
    "MapResult": "launch.map_result",
    "NoLengthError": "errors",
    "NotAvailableError": "errors",
    "NotInWorkerError": "errors",
    "PartialState": "core.states",
    "PayloadError": "errors",
    "ProfileKwargs": "core.handlers",
    "ProjectConfiguration": "core.plugins",
    "RankFailed": "errors",
    "ResultUnavailable": "errors",
    "Run": "launch.run",
    "RunConfig": "config",
    "RunHung": "errors",
    "RunInterrupted": "errors",
    "RunResult": "launch.result",
    "RunTimedOut": "errors",
    "Shared": "wire.shared",
    "WorkerDied": "errors",
    "World": "world",
    "clear_compilation_cache": "launch.compilations",
    "debug_launcher": "launch.notebook",
    "find_executable_batch_size": "core.batch_size",
    "last_run": "launch.start",
    "launch_map": "launch.many",
    "load_checkpoint_in_model": "core.weights.loading",
    "notebook_launcher": "launch.notebook",
    "set_seed": "core.rng",
    "share": "launch.share",
    "skip_first_batches": "core.skipping",
    "warm": "launch.warm",
}

__all__ = [
    "AccelError",
    "Accelerator",
    "AutocastKwargs",
    "CheckpointError",
    "CheckpointNotFound",
    "ConfigError",
    "DataLoaderConfiguration",
    "DistributedDataParallelKwargs",
    "DistributedType",
    "GradScalerKwargs",
    "GradientAccumulationPlugin",
    "InitProcessGroupKwargs",
    "LaunchError",
    "LengthBuckets",
    "LocalSGD",
    "MapResult",
    "NoLengthError",
    "NotAvailableError",
    "NotInWorkerError",
    "PartialState",
    "PayloadError",
    "ProfileKwargs",
    "ProjectConfiguration",
    "RankFailed",
    "ResultUnavailable",
    "Run",
    "RunConfig",
    "RunHung",
    "RunInterrupted",
    "RunResult",
    "RunTimedOut",
    "Shared",
    "WorkerDied",
    "World",
    "clear_compilation_cache",
    "debug_launcher",
    "find_executable_batch_size",
    "last_run",
    "launch_map",
    "load_checkpoint_in_model",
    "notebook_launcher",
    "set_seed",
    "share",
    "skip_first_batches",
    "warm",
]


_resolve = resolver(__name__, _HOME, globals())


def __getattr__(name: str) -> Any:
    """Resolve a public name; the launcher's also warms the helper process in a notebook kernel."""
    value = _resolve(name)
    if name in {"notebook_launcher", "debug_launcher", "launch_map"}:
        _warm_in_kernel()
    return value


def __dir__() -> list[str]:
    """List the public names, resolved or not."""
    return sorted({*globals(), *__all__})


def load_ipython_extension(_shell: object) -> None:
    """``%load_ext notebook_accel``: start the helper process, so that the first launch finds it warm."""
    _warm_in_kernel()


def _warm_in_kernel() -> None:
    environment = importlib.import_module(f"{__name__}.environment")
    if environment.in_notebook_kernel():
        importlib.import_module(f"{__name__}.launch.warm").warm_quietly()
