"""Verbs that tell whoever watches how the training goes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from notebook_accel.core.checkpoints.project import Checkpoints
from notebook_accel.core.handlers import ProfileKwargs, one_of
from notebook_accel.core.kit import Kit
from notebook_accel.core.plugins import ProjectConfiguration
from notebook_accel.core.profiling import profiled
from notebook_accel.core.trackers.base import GeneralTracker


class Tracking:
    """Verbs about metrics and the end of the run."""

    _kit: Kit
    _checkpoints: Checkpoints

    @property
    def project_configuration(self) -> ProjectConfiguration:
        """Where checkpoints and logs lie."""
        return self._kit.settings.project

    @property
    def project_dir(self) -> Path | None:
        """The folder of the project."""
        folder = self._kit.settings.project.project_dir
        return None if folder is None else Path(folder)

    @property
    def logging_dir(self) -> Path | None:
        """The folder that trackers write to."""
        folder = self._kit.settings.project.logging_dir
        return None if folder is None else Path(folder)

    @property
    def save_iteration(self) -> int:
        """Number of the next numbered checkpoint."""
        return self._kit.settings.project.iteration

    @property
    def log_with(self) -> list[str]:
        """Names of the trackers that were asked for."""
        return self._kit.trackers.names

    @property
    def trackers(self) -> list[GeneralTracker]:
        """The trackers that run on this rank."""
        return self._kit.trackers.started

    def init_trackers(
        self,
        project_name: str,
        config: Mapping[str, Any] | None = None,
        init_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Begin a run with each tracker of ``log_with``, on rank 0 unless a tracker wants all.

        Args:
            project_name: of the project, or of the folder.
            config: settings to keep with the run.
            init_kwargs: for the trackers' own packages, by tracker.

        Raises:
            ConfigError: ``init_kwargs`` are for a tracker that is not used.

        Example:
            >>> from notebook_accel import Accelerator
            >>> Accelerator(cpu=True).init_trackers("project", config={"lr": 0.1})
        """
        self._kit.trackers.start(project_name, config, init_kwargs or {})

    def get_tracker(self, name: str, unwrap: bool = False) -> Any:
        """Give a tracker; on ranks that have none, None.

        Args:
            name: of the tracker.
            unwrap: give what the service's package calls a run.

        Raises:
            ConfigError: ``log_with`` does not have it.
        """
        found = self._kit.trackers.named(name)
        return found.tracker if unwrap and found is not None else found

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None = None,
        log_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Hand values to the notebook and to the trackers.

        ``result.metrics`` has what rank 0 logged, ``.of_rank(r)`` any rank's.

        On a TPU values are read a step later: reading a loss in the middle of a step would run its program in pieces,
        parts of it twice. The last step's are read when the function ends.

        Args:
            values: by name; tensors become numbers, which waits for the device.
            step: of the training.
            log_kwargs: for the trackers' own packages, by tracker.

        Example:
            >>> from notebook_accel import Accelerator
            >>> Accelerator().log({"loss": 0.5}, step=1)
        """
        names = list(values)
        others = {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}

        def tell(told: Mapping[str, Any]) -> None:
            self._kit.runtime.log(told, step)
            if self._kit.trackers.started:
                own = {name: others[name] if name in others else told[str(name)] for name in names}
                self._kit.trackers.log(own, step, log_kwargs or {})

        self._kit.reports.add(values, tell)

    def end_training(self) -> None:
        """Wait for a checkpoint that is being saved, and end the trackers' runs. Collective: all ranks must call this.

        The ranks stay connected until their function has returned: what they do after it is safe.
        """
        self._checkpoints.finish()
        self._kit.reports.finish()
        self._kit.trackers.finish()
        self._kit.backend.barrier()

    def profile(self, profile_handler: ProfileKwargs | None = None) -> AbstractContextManager[torch.profiler.profile]:
        """Give a block that torch's profiler records; each rank writes its trace where the handler says.

        Args:
            profile_handler: what is recorded; None takes what the ``Accelerator`` was built with.

        Example:
            >>> from notebook_accel import Accelerator
            >>> with Accelerator(cpu=True).profile() as profiler:
            ...     _ = torch.ones(2) + 1
            >>> any("add" in event.key for event in profiler.key_averages())
            True
        """
        handler = profile_handler or one_of(ProfileKwargs, self._kit.settings.handlers)
        return profiled(handler, self._kit.backend.world.rank, self._kit.backend.barrier)

    @property
    def should_stop(self) -> bool:
        """Whether it is time to save and return; the same on all ranks at each step.

        It is when the run was asked to end by itself (``Run.request_stop``), when ``time_limit_seconds`` are over, or
        when a rank was sent SIGTERM, which from the first time that this is read on does not end it; a second does.

        Collective: all ranks must read it, equally often. Several ranks exchange a number each time, so read it where
        you can afford that: at the end of an epoch, or every few steps.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True)
            >>> for epoch in range(2):
            ...     if accelerator.should_stop:
            ...         break
            ...     print(f"epoch {epoch}")
            epoch 0
            epoch 1
        """
        return self._kit.stop_request.is_agreed()
