"""What a tracker is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar


class GeneralTracker(ABC):
    """Base of trackers, also of your own: pass an object of it as ``Accelerator(log_with=...)``.

    Attributes:
        name: what it is called in ``log_with`` and ``get_tracker``.
        requires_logging_directory: whether it writes files, so that ``logging_dir`` is passed to it.
        main_process_only: whether it is used on rank 0 only.

    Example:
        >>> class Printing(GeneralTracker):
        ...     name, requires_logging_directory = "printing", False
        ...     tracker = None
        ...     def store_init_configuration(self, values):
        ...         print("with", values)
        ...     def log(self, values, step=None, **kwargs):
        ...         print(step, values)
        >>> Printing().log({"loss": 0.5}, step=1)
        1 {'loss': 0.5}
    """

    name: ClassVar[str]
    requires_logging_directory: ClassVar[bool]
    main_process_only: ClassVar[bool] = True

    @property
    @abstractmethod
    def tracker(self) -> Any:
        """What the service's own package calls a run."""

    @abstractmethod
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep the settings of the run.

        Args:
            values: settings by name.
        """

    @abstractmethod
    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Keep values of one step.

        Args:
            values: by name.
            step: of the training.
            kwargs: for the service.
        """

    def finish(self) -> None:  # noqa: B027 - most have nothing to do
        """End the run; nothing to do for most."""


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Give nested settings as one level, for services that take no more.

    Example:
        >>> flat({"model": {"layers": 2}, "lr": 0.1})
        {'model/layers': 2, 'lr': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{before}{name}/"))
        else:
            found[f"{before}{name}"] = value
    return found
