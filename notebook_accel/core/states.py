"""Views of the current run under the names that users of Hugging Face Accelerate know.

They hold nothing of their own: each reads what the process is in. So none of them has to be reset, and looking at one
changes nothing.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from notebook_accel.core.handlers import InitProcessGroupKwargs
from notebook_accel.core.kit import Kit, group_options_of
from notebook_accel.core.runtime import current
from notebook_accel.core.verbs.processes import Processes
from notebook_accel.errors import ConfigError


class PartialState(Processes):
    """This process's place in the run, without an ``Accelerator``. Collective: all ranks must build it.

    Args:
        cpu: compute on the CPU even where there is an accelerator.
        kwargs: as for ``InitProcessGroupKwargs``.

    Raises:
        ConfigError: ``kwargs`` has something else, or the ranks are joined already, in another way.
        NotInWorkerError: built in a notebook kernel, outside a launched function.

    Example:
        >>> PartialState(cpu=True).num_processes
        1
    """

    def __init__(self, cpu: bool = False, **kwargs: Any) -> None:
        known = [field.name for field in fields(InitProcessGroupKwargs)]
        for name in kwargs:
            if name not in known:
                raise ConfigError(f"{type(self).__name__}() has no argument {name!r}", f"use one of {', '.join(known)}")
        self._runtime = current(cpu=cpu)
        self._backend = self._runtime.connect(group_options_of(InitProcessGroupKwargs(**kwargs)))

    @property
    def backend(self) -> str | None:
        """What carries messages between the ranks, None where there is one."""
        return self._backend.name if self.use_distributed else None

    @property
    def debug(self) -> bool:
        """Whether what ranks send is compared."""
        return self._runtime.exchange.checks

    @property
    def initialized(self) -> bool:
        """True."""
        return True

    @classmethod
    def _reset_state(cls, *_: object, **__: object) -> None:
        """Do nothing: a view holds nothing that would have to be reset."""

    def destroy_process_group(self) -> None:
        """Leave the ranks' group to the end of the process, which takes it down in order."""


class AcceleratorState(PartialState):
    """As ``PartialState``, with the precision.

    Args:
        mixed_precision: what models compute in; None takes what the run was started with.
        cpu: compute on the CPU even where there is an accelerator.
        kwargs: as for ``PartialState``.
    """

    def __init__(self, mixed_precision: str | None = None, cpu: bool = False, **kwargs: Any) -> None:
        super().__init__(cpu=cpu, **kwargs)
        self._precision = self._runtime.mixed_precision if mixed_precision is None else mixed_precision

    @property
    def mixed_precision(self) -> str:
        """What models compute in."""
        return self._precision


class GradientState:
    """Where a loop is in its loader and in its accumulation window.

    Args:
        kit: what an ``Accelerator``'s verbs share; ``accelerator.gradient_state`` has it.

    Raises:
        ConfigError: built without it.
    """

    def __init__(self, kit: Kit | None = None) -> None:
        if kit is None:
            what = "GradientState() belongs to no Accelerator"
            raise ConfigError(what, "read accelerator.gradient_state")
        self._kit = kit

    @classmethod
    def _reset_state(cls) -> None:
        """Do nothing: a view holds nothing that would have to be reset."""

    @property
    def sync_gradients(self) -> bool:
        """True where the optimizer steps."""
        return self._kit.window.is_step

    @property
    def num_steps(self) -> int:
        """Micro-batches of a full window."""
        return self._kit.window.steps

    @property
    def adjust_scheduler(self) -> bool:
        """As in ``GradientAccumulationPlugin``."""
        return self._kit.window.plugin.adjust_scheduler

    @property
    def sync_with_dataloader(self) -> bool:
        """As in ``GradientAccumulationPlugin``."""
        return self._kit.window.plugin.sync_with_dataloader

    @property
    def active_dataloader(self) -> Any:
        """The prepared loader that is read, the innermost; None outside of all loops."""
        return self._kit.watch.loader

    @property
    def in_dataloader(self) -> bool:
        """True while a prepared loader is read."""
        return self._kit.watch.remaining is not None

    @property
    def end_of_dataloader(self) -> bool:
        """True while the last batch of the innermost loader is in hand."""
        return self._kit.watch.remaining == 0

    @property
    def remainder(self) -> int:
        """How many of the batch in hand's rows are real, over all ranks, where some only fill up; else -1."""
        return self._kit.watch.remainder
