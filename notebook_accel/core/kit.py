"""What the verbs of one ``Accelerator`` share."""

from __future__ import annotations

from dataclasses import dataclass

from notebook_accel.backends.base import Backend, GroupOptions, Wrapping
from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.dealing import Slice
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.exchange import Exchange
from notebook_accel.core.gradients import Gradients
from notebook_accel.core.guard import StepGuard
from notebook_accel.core.handlers import DistributedDataParallelKwargs, InitProcessGroupKwargs, one_of
from notebook_accel.core.loader import LoaderOptions
from notebook_accel.core.logged import Reports
from notebook_accel.core.precision import Precision, make_precision
from notebook_accel.core.registry import Prepared
from notebook_accel.core.runtime import Runtime
from notebook_accel.core.settings import Settings
from notebook_accel.core.stopping import StopRequest, Trigger, seconds_left
from notebook_accel.core.trackers.registry import Trackers, trackers_from
from notebook_accel.errors import ConfigError, NotAvailableError


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What the verbs of one ``Accelerator`` share.

    Attributes:
        runtime: this process's part of the run.
        settings: what the user asked for.
        backend: the connection to the other ranks.
        exchange: carries structures of tensors between the ranks.
        precision: what models compute in.
        watch: the passes over the loaders.
        window: the gradient accumulation.
        gradients: from a loss to gradients.
        trackers: who is told how the training goes.
        reports: what is on its way to them.
        trigger: a flag that any rank may set.
        stop_request: whether the run was asked to end.
        prepared: what has been made ready.
        guard: refuses steps of optimizers that should have been prepared.
    """

    runtime: Runtime
    settings: Settings
    backend: Backend
    exchange: Exchange
    precision: Precision
    watch: EpochWatch
    window: GradientWindow
    gradients: Gradients
    trackers: Trackers
    reports: Reports
    trigger: Trigger
    stop_request: StopRequest
    prepared: Prepared
    guard: StepGuard

    @classmethod
    def of(cls, runtime: Runtime, settings: Settings) -> Kit:
        """Build everything for one ``Accelerator``. Collective: all ranks must call this."""
        handler = one_of(InitProcessGroupKwargs, settings.handlers)
        backend, watch = runtime.connect(group_options_of(handler)), runtime.watch
        asked = runtime.mixed_precision if settings.mixed_precision is None else settings.mixed_precision
        check_precision(asked, backend)
        precision = make_precision(asked, backend.device, settings.handlers)
        window, prepared = GradientWindow(settings.accumulation, watch), Prepared()
        limit_seconds = seconds_left(settings.time_limit_seconds)
        stop_request = StopRequest(runtime.asked_to_stop, backend, limit_seconds)
        reports = Reports(backend)
        runtime.at_end(stop_request.close)
        runtime.at_any_end(reports.finish)
        return cls(
            runtime=runtime,
            settings=settings,
            backend=backend,
            exchange=runtime.exchange,
            precision=precision,
            watch=watch,
            window=window,
            gradients=Gradients(backend, window, precision.scaling, prepared),
            trackers=trackers_of(settings, runtime),
            reports=reports,
            trigger=Trigger(backend),
            stop_request=stop_request,
            prepared=prepared,
            guard=StepGuard(prepared, window, precision.scaling, runtime.world.rank),
        )

    def loader_options(self, *, placed: bool | None = None, slice_rows: Slice | None = None) -> LoaderOptions:
        """Give how a loader that is prepared now is shared out.

        Args:
            placed: bring its batches to the rank's device; None does as the ``Accelerator`` does.
            slice_rows: takes rows out of a batch that is split after it was read.
        """
        placed = self.settings.device_placement if placed is None else placed
        return LoaderOptions(
            config=self.settings.loaders,
            device=self.backend.device if placed else None,
            lookahead=max(1, self.window.most_steps - 1),
            slice_rows=slice_rows,
            rng_types=self.settings.rng_types,
        )

    @property
    def wrapping(self) -> Wrapping:
        """How models are wrapped on several ranks."""
        handler = one_of(DistributedDataParallelKwargs, self.settings.handlers)
        return Wrapping(options=handler.to_kwargs(), finish=handler.register_comm_hook)


def trackers_of(settings: Settings, runtime: Runtime) -> Trackers:
    """Give who is told how the training goes.

    Raises:
        ConfigError: a tracker that is unknown, or writes files where there is no folder.
        NotAvailableError: its package is not installed.
    """
    folder = settings.project.logging_dir
    wanted = trackers_from(settings.log_with, has_folder=folder is not None)
    return Trackers(wanted, None if folder is None else str(folder), is_main=runtime.world.is_main)


def check_precision(name: str, backend: Backend) -> None:
    """Refuse a precision that the backend's devices do not have.

    Raises:
        NotAvailableError: they do not have it.
    """
    if name in backend.refused_precisions:
        what = f"mixed_precision={name!r} is not possible on {backend.device}: {backend.refused_precisions[name]}"
        raise NotAvailableError(what, "use 'bf16' or 'no'")


def group_options_of(handler: InitProcessGroupKwargs) -> GroupOptions:
    """Give how the ranks are joined.

    Raises:
        ConfigError: ``init_method`` asks for another meeting point than the launcher's.
    """
    if handler.init_method not in (None, "env://"):
        what = f"InitProcessGroupKwargs(init_method={handler.init_method!r}): the launcher says where the ranks meet"
        raise ConfigError(what, "leave it out")
    return GroupOptions(engine=handler.backend, timeout=handler.timeout)
