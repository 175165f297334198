"""Which trackers there are, and those of one ``Accelerator``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from notebook_accel.core.trackers.base import GeneralTracker
from notebook_accel.core.trackers.files import CSVTracker, DVCLiveTracker, JSONLTracker, TensorBoardTracker
from notebook_accel.core.trackers.services import (
    AimTracker,
    ClearMLTracker,
    CometMLTracker,
    MLflowTracker,
    SwanLabTracker,
    TrackioTracker,
    WandBTracker,
)
from notebook_accel.errors import ConfigError, NotAvailableError

TRACKERS: dict[str, type[GeneralTracker]] = {
    tracker.name: tracker
    for tracker in (
        AimTracker,
        ClearMLTracker,
        CometMLTracker,
        CSVTracker,
        DVCLiveTracker,
        JSONLTracker,
        MLflowTracker,
        SwanLabTracker,
        TensorBoardTracker,
        TrackioTracker,
        WandBTracker,
    )
}
_WITHOUT_PACKAGE = {CSVTracker.name, JSONLTracker.name}


def register_tracker_class(tracker_class: type[GeneralTracker]) -> type[GeneralTracker]:
    """Let ``log_with`` know a tracker by its name; a decorator.

    Args:
        tracker_class: a tracker of your own.

    Raises:
        ConfigError: it has no name, or one that is taken.
    """
    name = getattr(tracker_class, "name", None)
    if not isinstance(name, str) or TRACKERS.get(name, tracker_class) is not tracker_class:
        raise ConfigError(f"{tracker_class.__name__} has the name {name!r}", "give it a name of its own")
    TRACKERS[name] = tracker_class
    return tracker_class


def is_installed(name: str) -> bool:
    """Tell whether the package of a tracker can be imported; some need none.

    Example:
        >>> is_installed("no_such_tracker")
        False
    """
    return name in _WITHOUT_PACKAGE or importlib.util.find_spec(name) is not None


def trackers_from(log_with: Sequence[Any], *, has_folder: bool) -> list[str | GeneralTracker]:
    """Check what ``log_with`` names.

    Args:
        log_with: names, "all", or trackers.
        has_folder: whether there is a folder to write to.

    Raises:
        ConfigError: an unknown name, or a tracker that writes files and no folder.
        NotAvailableError: its package is not installed.
    """
    found: list[str | GeneralTracker] = []
    for one in log_with:
        if isinstance(one, GeneralTracker):
            found.append(one)
        elif str(getattr(one, "value", one)) == "all":
            installed = [name for name in TRACKERS if is_installed(name)]
            found += [name for name in installed if has_folder or not TRACKERS[name].requires_logging_directory]
        else:
            found.append(_checked(str(getattr(one, "value", one)), has_folder=has_folder))
    return found


def _checked(name: str, *, has_folder: bool) -> str:
    if name not in TRACKERS:
        raise ConfigError(
            f"unknown tracker {name!r} in log_with", f"use one of {', '.join(sorted(TRACKERS))}, or 'all'"
        )
    if TRACKERS[name].__module__.startswith(__package__ or "") and not is_installed(name):
        raise NotAvailableError(f"log_with={name!r}, but {name} is not installed", f"pip install {name}")
    if TRACKERS[name].requires_logging_directory and not has_folder:
        raise ConfigError(
            f"log_with={name!r} writes files, and there is no folder", "pass Accelerator(project_dir=...)"
        )
    return name


class Trackers:
    """The trackers of one ``Accelerator``.

    Args:
        wanted: names and trackers, checked.
        folder: where files are written; None for nowhere.
        is_main: whether this is rank 0.
    """

    def __init__(self, wanted: Sequence[str | GeneralTracker], folder: str | None, *, is_main: bool) -> None:
        self._wanted = wanted
        self._folder = folder
        self._is_main = is_main
        self.names = [one if isinstance(one, str) else one.name for one in wanted]
        self.started: list[GeneralTracker] = []

    def start(self, project: str, config: Mapping[str, Any] | None, options: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin a run with each tracker, on rank 0 or wherever it wants.

        Raises:
            ConfigError: ``options`` are for a tracker that is not used.
        """
        for name in options:
            if name not in self.names:
                what = f"init_kwargs are for {name!r}"
                raise ConfigError(what, f"log_with has {', '.join(self.names) or 'nothing'}")
        for one in self._wanted:
            if not self._is_main and (TRACKERS[one] if isinstance(one, str) else one).main_process_only:
                continue
            tracker = self._made(one, project, options.get(one, {})) if isinstance(one, str) else one
            self.started.append(tracker)
            if config is not None:
                tracker.store_init_configuration(config)

    def _made(self, name: str, project: str, options: Mapping[str, Any]) -> GeneralTracker:
        kind: Any = TRACKERS[name]
        if kind.requires_logging_directory:
            return kind(project, self._folder, **options)  # type: ignore[no-any-return]  # a tracker of any kind
        return kind(project, **options)  # type: ignore[no-any-return]  # a tracker of any kind

    def log(self, values: Mapping[str, Any], step: int | None, options: Mapping[str, Mapping[str, Any]]) -> None:
        """Hand values to each tracker."""
        for tracker in self.started:
            tracker.log(values, step=step, **options.get(tracker.name, {}))

    def named(self, name: str) -> GeneralTracker | None:
        """Give the tracker called so; None on a rank that has none.

        Raises:
            ConfigError: none of the run is called so.
        """
        if name not in self.names:
            what = f"there is no tracker {name!r}; log_with has {', '.join(self.names) or 'nothing'}"
            raise ConfigError(what, "name it in Accelerator(log_with=...), and call init_trackers()")
        return next((tracker for tracker in self.started if tracker.name == name), None)

    def finish(self) -> None:
        """End the runs."""
        started, self.started = self.started, []
        for tracker in started:
            tracker.finish()
