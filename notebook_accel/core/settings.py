"""What an ``Accelerator`` was asked to be: its arguments, checked and brought into one form."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from notebook_accel.core.compiling import TorchDynamoPlugin
from notebook_accel.core.handlers import check_handlers
from notebook_accel.core.plugins import DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration
from notebook_accel.core.rng import rng_types_from
from notebook_accel.core.stopping import TimeLimit
from notebook_accel.errors import ConfigError, NotAvailableError

# Arguments of Hugging Face Accelerate for engines that are not built here, and what each asks for.
_ELSEWHERE = {
    "deepspeed_plugin": "DeepSpeed",
    "deepspeed_plugins": "DeepSpeed",
    "fsdp_plugin": "fully sharded data parallelism",
    "megatron_lm_plugin": "Megatron-LM",
    "parallelism_config": "several kinds of parallelism at once",
    "torch_tp_plugin": "tensor parallelism",
}
_LOADER_ARGUMENTS = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an ``Accelerator`` was asked to be.

    Attributes:
        device_placement: bring models and batches to the rank's device.
        mixed_precision: what models compute in; None takes what the run was started with.
        loaders: how loaders share their data out.
        accumulation: how gradients are accumulated.
        step_scheduler_with_optimizer: let schedulers follow the optimizer's steps.
        rng_types: generators brought in step when an epoch starts; None for those that the loader draws from.
        log_with: trackers, by name or as objects.
        project: where checkpoints and logs lie.
        handlers: keyword handlers.
        dynamo: how models are compiled.
        time_limit_seconds: when ``should_stop`` becomes True.
    """

    device_placement: bool = True
    mixed_precision: str | None = None
    loaders: DataLoaderConfiguration = field(default_factory=DataLoaderConfiguration)
    accumulation: GradientAccumulationPlugin = field(default_factory=lambda: GradientAccumulationPlugin(num_steps=1))
    step_scheduler_with_optimizer: bool = True
    rng_types: tuple[str, ...] | None = None
    log_with: tuple[Any, ...] = ()
    project: ProjectConfiguration = field(default_factory=ProjectConfiguration)
    handlers: tuple[Any, ...] = ()
    dynamo: TorchDynamoPlugin = field(default_factory=lambda: TorchDynamoPlugin(backend="no"))
    time_limit_seconds: TimeLimit = None

    def __post_init__(self) -> None:
        """Refuse handlers that nobody reads, and generators that nobody knows."""
        check_handlers(self.handlers)
        rng_types_from(self.rng_types or ())


def refuse_others(others: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuse arguments that are asked of an ``Accelerator`` and that it does not have.

    Args:
        others: the arguments, by name.
        known: the names of those that it has.

    Raises:
        NotAvailableError: one that asks for an engine which is not built here.
        TypeError: one that nobody knows; the message names the nearest.
    """
    for name, value in others.items():
        if name not in _ELSEWHERE:
            near = _nearest(name, known)
            raise TypeError(f"Accelerator() has no argument {name!r}" + (f"; did you mean {near!r}?" if near else ""))
        if value is not None:
            what = f"Accelerator({name}=...) asks for {_ELSEWHERE[name]}, which is not built here"
            raise NotAvailableError(what, "leave it out to train a whole copy of the model on every rank")


def _nearest(name: str, known: Sequence[str]) -> str | None:
    if name == "step_with_optimizer":  # as a well-known tutorial spells it
        return "step_scheduler_with_optimizer"
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def loaders_from(given: DataLoaderConfiguration | None, asked: Mapping[str, Any]) -> DataLoaderConfiguration:
    """Bring a configuration and the older single arguments together.

    Args:
        given: the configuration, None where it was left out.
        asked: the single arguments; None for those that were left out.

    Raises:
        ConfigError: both say something about the same.
    """
    single = {name: asked[name] for name in _LOADER_ARGUMENTS if asked[name] is not None}
    if given is None:
        return DataLoaderConfiguration(**single)
    defaults = DataLoaderConfiguration()
    for name, value in single.items():
        if getattr(given, name) not in (value, getattr(defaults, name)):
            what = f"{name} is {value!r}, but {getattr(given, name)!r} in dataloader_config"
            raise ConfigError(what, "say it once, in dataloader_config")
    return replace(given, **single)


def accumulation_from(steps: int, plugin: GradientAccumulationPlugin | None) -> GradientAccumulationPlugin:
    """Give how gradients are accumulated, said by a number or by a plugin.

    Raises:
        ConfigError: both say something.
    """
    if plugin is None:
        return GradientAccumulationPlugin(num_steps=steps)
    if steps not in (1, plugin.num_steps):
        what = f"gradient_accumulation_steps={steps!r} and a plugin with num_steps={plugin.num_steps}"
        raise ConfigError(what, "say it once, in the plugin")
    return plugin


def project_from(
    project_dir: str | os.PathLike[str] | None, configuration: ProjectConfiguration | None
) -> ProjectConfiguration:
    """Give where checkpoints and logs lie, said by a folder or by a configuration."""
    if configuration is None:
        return ProjectConfiguration(project_dir=project_dir)
    if project_dir is not None:
        configuration.set_directories(project_dir)
    return configuration
