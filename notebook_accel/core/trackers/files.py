"""Trackers that write into a folder."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from notebook_accel.core.trackers.base import GeneralTracker, flat

_PLAIN = (int, float, str, bool)


class TensorBoardTracker(GeneralTracker):
    """Writes TensorBoard's event files.

    Args:
        run_name: of the folder.
        logging_dir: which it is made in.
        kwargs: for ``torch.utils.tensorboard.SummaryWriter``.
    """

    name, requires_logging_directory = "tensorboard", True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str], **kwargs: Any) -> None:
        self._folder = Path(logging_dir) / run_name
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(self._folder), **kwargs)

    @property
    def tracker(self) -> Any:
        """The ``SummaryWriter``."""
        return self._writer

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Write the settings as hyper-parameters, and as ``hparams.json`` beside the events."""
        plain = {name: value if isinstance(value, _PLAIN) else repr(value) for name, value in flat(values).items()}
        self._writer.add_hparams(plain, metric_dict={}, run_name=".")
        self._writer.flush()
        (self._folder / "hparams.json").write_text(json.dumps(plain, indent=1))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write numbers, texts, and dicts of numbers as one plot."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, global_step=step, **kwargs)
            elif isinstance(value, str):
                self._writer.add_text(name, value, global_step=step, **kwargs)
            elif isinstance(value, Mapping):
                self._writer.add_scalars(name, dict(value), global_step=step, **kwargs)
        self._writer.flush()

    def log_images(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write images.

        Args:
            values: arrays or tensors of images by name.
            step: of the training.
            kwargs: for ``SummaryWriter.add_images``.
        """
        for name, images in values.items():
            self._writer.add_images(name, images, global_step=step, **kwargs)

    def finish(self) -> None:
        """Close the files."""
        self._writer.close()


class DVCLiveTracker(GeneralTracker):
    """Writes with DVCLive.

    Args:
        run_name: not used: DVCLive names its runs.
        live: an open ``dvclive.Live``; made where left out.
        kwargs: for ``dvclive.Live``.
    """

    name, requires_logging_directory = "dvclive", False

    def __init__(self, run_name: str | None = None, live: Any = None, **kwargs: Any) -> None:
        del run_name
        self._live = importlib.import_module("dvclive").Live(**kwargs) if live is None else live

    @property
    def tracker(self) -> Any:
        """The ``Live``."""
        return self._live

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Write the settings."""
        self._live.log_params(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write numbers and texts, and go on to the next step."""
        if step is not None:
            self._live.step = step
        for name, value in values.items():
            if isinstance(value, _PLAIN):
                self._live.log_metric(name, value, **kwargs)
        self._live.next_step()

    def finish(self) -> None:
        """End the run."""
        self._live.end()
