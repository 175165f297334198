"""Trackers that talk to a service."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from notebook_accel.core.trackers.base import GeneralTracker, flat


class _ModuleTracker(GeneralTracker):
    """One of the services whose package has ``init``, and whose run has ``config`` and ``log``."""

    requires_logging_directory = False
    _package: str

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        self._module = importlib.import_module(self._package)
        self._run = self._module.init(project=run_name, **kwargs)

    @property
    def tracker(self) -> Any:
        """The service's run."""
        return self._run

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep the settings."""
        self._run.config.update(dict(values), allow_val_change=True)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Send the values."""
        self._run.log(dict(values), step=step, **kwargs)

    def finish(self) -> None:
        """End the run."""
        self._run.finish()


class WandBTracker(_ModuleTracker):
    """Sends to Weights & Biases."""

    name, _package = "wandb", "wandb"

    def log_images(self, values: Mapping[str, Sequence[Any]], step: int | None = None, **kwargs: Any) -> None:
        """Send images.

        Args:
            values: lists of images by name.
            step: of the training.
            kwargs: for ``wandb.log``.
        """
        images = {name: [self._module.Image(image) for image in listed] for name, listed in values.items()}
        self.log(images, step=step, **kwargs)

    def log_table(
        self,
        table_name: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Send a table, given by columns and rows or as a data frame."""
        self.log({table_name: self._module.Table(columns=columns, data=data, dataframe=dataframe)}, step=step, **kwargs)


class SwanLabTracker(_ModuleTracker):
    """Sends to SwanLab."""

    name, _package = "swanlab", "swanlab"

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep the settings."""
        self._run.config.update(dict(values))


class TrackioTracker(_ModuleTracker):
    """Keeps with Trackio."""

    name, _package = "trackio", "trackio"

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep the settings."""
        self._run.config.update(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Keep the values."""
        self._run.log(dict(values), step=step, **kwargs)


class CometMLTracker(GeneralTracker):
    """Sends to Comet."""

    name, requires_logging_directory = "comet_ml", False

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        self._experiment = importlib.import_module("comet_ml").start(project_name=run_name, **kwargs)

    @property
    def tracker(self) -> Any:
        """The ``Experiment``."""
        return self._experiment

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Send the settings."""
        self._experiment.log_parameters(flat(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Send the values."""
        if step is not None:
            self._experiment.set_step(step)
        self._experiment.log_metrics(flat(values), step=step, **kwargs)

    def finish(self) -> None:
        """End the experiment."""
        self._experiment.end()


class AimTracker(GeneralTracker):
    """Keeps with Aim."""

    name, requires_logging_directory = "aim", True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str] | None = ".", **kwargs: Any) -> None:
        self._run = importlib.import_module("aim").Run(repo=None if logging_dir is None else str(logging_dir), **kwargs)
        self._run.name = run_name

    @property
    def tracker(self) -> Any:
        """The ``Run``."""
        return self._run

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep the settings."""
        self._run["hparams"] = dict(values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Keep the values."""
        for name, value in values.items():
            self._run.track(value, name=name, step=step, **kwargs)

    def finish(self) -> None:
        """Close the run."""
        self._run.close()


class MLflowTracker(GeneralTracker):
    """Sends to MLflow.

    Args:
        experiment_name: of the experiment.
        logging_dir: of its files, where it keeps them itself.
        run_name: of the run.
        kwargs: for ``mlflow.start_run``.
    """

    name, requires_logging_directory = "mlflow", False

    def __init__(
        self, experiment_name: str, logging_dir: str | None = None, run_name: str | None = None, **kwargs: Any
    ) -> None:
        self._mlflow = importlib.import_module("mlflow")
        found = self._mlflow.search_experiments(filter_string=f"name = '{experiment_name}'")
        number = (
            found[0].experiment_id
            if found
            else self._mlflow.create_experiment(experiment_name, artifact_location=logging_dir)
        )
        self._run = self._mlflow.start_run(experiment_id=number, run_name=run_name, **kwargs)

    @property
    def tracker(self) -> Any:
        """The active run."""
        return self._run

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Send the settings, in as many calls as the service's limit asks for."""
        items = [(name, str(value)) for name, value in flat(values).items()]
        for start in range(0, len(items), 100):
            self._mlflow.log_params(dict(items[start : start + 100]))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Send the numbers."""
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        self._mlflow.log_metrics(numbers, step=step, **kwargs)

    def finish(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class ClearMLTracker(GeneralTracker):
    """Sends to ClearML."""

    name, requires_logging_directory = "clearml", False

    def __init__(self, run_name: str, **kwargs: Any) -> None:
        task = importlib.import_module("clearml").Task
        self._task = task.current_task() or task.init(project_name=run_name, **kwargs)

    @property
    def tracker(self) -> Any:
        """The ``Task``."""
        return self._task

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Send the settings."""
        self._task.connect_configuration(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Send the numbers, ``title/series`` as one of several lines of a plot; without a step, single values."""
        logger = self._task.get_logger()
        for name, value in values.items():
            if not isinstance(value, (int, float)):
                continue
            title, _, series = name.rpartition("/")
            if step is None:
                logger.report_single_value(name=name, value=value, **kwargs)
            else:
                logger.report_scalar(title=title or name, series=series, value=value, iteration=step, **kwargs)

    def finish(self) -> None:
        """Close the task."""
        self._task.close()
