"""What the verbs of one ``Accelerator`` share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.loader import LoaderOptions
from notebook_accel.core.precision import Precision, make_precision
from notebook_accel.core.registry import Prepared
from notebook_accel.core.runtime import Runtime
from notebook_accel.core.settings import Settings
from notebook_accel.core.stopping import StopRequest


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What the verbs of one ``Accelerator`` share.

    Attributes:
        runtime: this process's part of the run.
        settings: what the user asked for.
        backend: the connection to the other ranks.
        precision: what models compute in.
        watch: the passes over the loaders.
        window: the gradient accumulation.
        loader_options: how loaders are shared out.
        stop_request: whether the run was asked to end.
        prepared: what has been made ready.
    """

    runtime: Runtime
    settings: Settings
    backend: Backend
    precision: Precision
    watch: EpochWatch
    window: GradientWindow
    loader_options: LoaderOptions
    stop_request: StopRequest
    prepared: Prepared = field(default_factory=Prepared)

    @classmethod
    def of(cls, runtime: Runtime, settings: Settings) -> Kit:
        """Build everything for one ``Accelerator``. Collective: all ranks must call this."""
        backend, watch = runtime.backend, EpochWatch()
        return cls(
            runtime=runtime,
            settings=settings,
            backend=backend,
            precision=precision_of(runtime, settings),
            watch=watch,
            window=GradientWindow(settings.accumulation.num_steps, watch),
            loader_options=loader_options_of(settings, backend),
            stop_request=StopRequest(runtime.asked_to_stop, backend),
        )


def precision_of(runtime: Runtime, settings: Settings) -> Precision:
    """Give the precision that was asked for, here or when the run was started."""
    asked = runtime.mixed_precision if settings.mixed_precision is None else settings.mixed_precision
    return make_precision(asked, torch.device(runtime.world.device_kind))


def loader_options_of(settings: Settings, backend: Backend) -> LoaderOptions:
    """Give how loaders are shared out."""
    return LoaderOptions(
        split_batches=settings.loaders.split_batches,
        even_batches=settings.loaders.even_batches,
        device=backend.device if settings.device_placement else None,
        lookahead=max(1, settings.accumulation.num_steps - 1),
    )
