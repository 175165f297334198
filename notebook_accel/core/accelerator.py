"""``Accelerator``: what a training function holds. Its verbs lie in groups in ``core/verbs``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

from notebook_accel.core.checkpoints.project import Checkpoints
from notebook_accel.core.compiling import DynamoBackend, TorchDynamoPlugin, plugin_from
from notebook_accel.core.kit import Kit
from notebook_accel.core.plugins import DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration
from notebook_accel.core.runtime import current
from notebook_accel.core.settings import Settings, accumulation_from, loaders_from, project_from, refuse_others
from notebook_accel.core.states import AcceleratorState, GradientState
from notebook_accel.core.stopping import TimeLimit
from notebook_accel.core.verbs.collectives import Collectives
from notebook_accel.core.verbs.data import Data
from notebook_accel.core.verbs.preparing import Preparing
from notebook_accel.core.verbs.processes import Processes
from notebook_accel.core.verbs.saving import Saving
from notebook_accel.core.verbs.tracking import Tracking
from notebook_accel.core.verbs.training import Training
from notebook_accel.refused import ATTRIBUTES, refuse_attribute


class Accelerator(Processes, Preparing, Data, Training, Collectives, Saving, Tracking):
    """Makes a plain PyTorch loop run on every rank of the run that it is in.

    Build it inside the function that is launched, or in a script started with ``python`` or ``torchrun``.
    Collective: all ranks must build it.

    Args:
        device_placement: bring prepared models and batches to ``device``.
        split_batches: let a loader's batch size be that of the whole run, instead of that of every rank.
        mixed_precision: "no", "bf16" or "fp16"; None takes what the run was started with.
        gradient_accumulation_steps: micro-batches for one optimizer step, 1 or more; see ``accumulate``.
        cpu: compute on the CPU even where there is an accelerator.
        dataloader_config: how loaders share their data out.
        rng_types: generators brought in step when an epoch starts; None for those that the loader draws from.
        log_with: trackers, by name or as objects.
        project_dir: the folder of checkpoints and logs.
        project_config: the same in more detail.
        gradient_accumulation_plugin: how gradients are accumulated, in more detail.
        step_scheduler_with_optimizer: let schedulers follow the optimizer's steps.
        kwargs_handlers: handlers that change how models are wrapped, gradients scaled, and so on.
        dynamo_backend: compile models with this backend of ``torch.compile``.
        dynamo_plugin: the same in more detail.
        dispatch_batches: as in ``dataloader_config``.
        even_batches: as in ``dataloader_config``.
        use_seedable_sampler: as in ``dataloader_config``.
        time_limit_seconds: how long from now on until ``should_stop`` is True, so that the run can save and return;
            "platform" for what the session has left (on Kaggle, less ten minutes), None for ever.
        others: arguments of Hugging Face Accelerate for engines that are not built here.

    Raises:
        NotInWorkerError: built in a notebook kernel, outside a launched function.
        ConfigError: a value is wrong, or contradicts the run.
        NotAvailableError: a value is known but not possible here.
        TypeError: an argument that nobody knows.

    Example:
        >>> import torch
        >>> accelerator = Accelerator(cpu=True)
        >>> model = torch.nn.Linear(2, 1)
        >>> model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> accelerator.backward(model(torch.ones(4, 2)).sum())
        >>> optimizer.step()
    """

    def __init__(  # noqa: PLR0913 - the names that users of Hugging Face Accelerate know
        self,
        device_placement: bool = True,
        split_batches: bool | None = None,
        mixed_precision: str | None = None,
        gradient_accumulation_steps: int = 1,
        cpu: bool = False,
        dataloader_config: DataLoaderConfiguration | None = None,
        *,
        rng_types: Sequence[str] | None = None,
        log_with: Any = None,
        project_dir: str | os.PathLike[str] | None = None,
        project_config: ProjectConfiguration | None = None,
        gradient_accumulation_plugin: GradientAccumulationPlugin | None = None,
        step_scheduler_with_optimizer: bool = True,
        kwargs_handlers: Sequence[Any] | None = None,
        dynamo_backend: DynamoBackend | str | None = None,
        dynamo_plugin: TorchDynamoPlugin | None = None,
        dispatch_batches: bool | None = None,
        even_batches: bool | None = None,
        use_seedable_sampler: bool | None = None,
        time_limit_seconds: TimeLimit = None,
        **others: Any,
    ) -> None:
        refuse_others(others, [*inspect.signature(Accelerator).parameters])
        single = {
            "split_batches": split_batches,
            "dispatch_batches": dispatch_batches,
            "even_batches": even_batches,
            "use_seedable_sampler": use_seedable_sampler,
        }
        settings = Settings(
            device_placement=device_placement,
            mixed_precision=mixed_precision,
            loaders=loaders_from(dataloader_config, single),
            accumulation=accumulation_from(gradient_accumulation_steps, gradient_accumulation_plugin),
            step_scheduler_with_optimizer=step_scheduler_with_optimizer,
            rng_types=None if rng_types is None else tuple(rng_types),
            log_with=()
            if log_with is None
            else tuple(log_with)
            if isinstance(log_with, (list, tuple))
            else (log_with,),
            project=project_from(project_dir, project_config),
            handlers=tuple(kwargs_handlers or ()),
            dynamo=plugin_from(dynamo_backend, dynamo_plugin),
            time_limit_seconds=time_limit_seconds,
        )
        runtime = current(cpu=cpu)
        self._kit = Kit.of(runtime, settings)
        self._backend = self._kit.backend
        self._checkpoints = Checkpoints(self._kit)

    @property
    def state(self) -> AcceleratorState:
        """This process's place in the run."""
        return AcceleratorState(self.mixed_precision)

    @property
    def gradient_state(self) -> GradientState:
        """Where the loop is in its loader and in its accumulation window."""
        return GradientState(self._kit)

    def __getattr__(self, name: str) -> Any:
        """Refuse, by name, what Hugging Face Accelerate has for engines that are not built here."""
        if name in ATTRIBUTES:
            raise refuse_attribute(type(self).__name__, name)
        return object.__getattribute__(self, name)  # raises as it would without this
