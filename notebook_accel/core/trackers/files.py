"""Trackers that write into a folder."""

from __future__ import annotations

import csv
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from notebook_accel.core.logged import plain
from notebook_accel.core.trackers.base import GeneralTracker, flat

_PLAIN = (int, float, str, bool)


class _OneFile(GeneralTracker):
    """Writes values into one file, and the settings beside it."""

    requires_logging_directory = True
    file_name: ClassVar[str]

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str]) -> None:
        self._folder = Path(logging_dir) / run_name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._folder / self.file_name

    @property
    def tracker(self) -> Path:
        """The file."""
        return self._file

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Write the settings."""
        (self._folder / "hparams.json").write_text(json.dumps(plain(values), indent=1))


class JSONLTracker(_OneFile):
    r"""Writes ``metrics.jsonl``, a line for each call of ``log``, and the settings beside it as ``hparams.json``.

    A file that is there is continued, so that a run which goes on from a checkpoint keeps what it had.

    Args:
        run_name: of the folder.
        logging_dir: which it is made in.

    Example:
        >>> import tempfile
        >>> tracker = JSONLTracker("run", tempfile.mkdtemp())
        >>> tracker.log({"loss": 0.5}, step=1)
        >>> tracker.tracker.read_text()
        '{"step": 1, "loss": 0.5}\n'
    """

    name, file_name = "jsonl", "metrics.jsonl"

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write a line; it is in the file when this returns.

        Args:
            values: by name.
            step: of the training.
            kwargs: for ``json.dumps``.
        """
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **plain(values)}, **kwargs) + "\n")


class CSVTracker(_OneFile):
    """Writes ``metrics.csv``, a row for each call of ``log``, and the settings beside it as ``hparams.json``.

    The columns are the names that were logged so far: a new one is added to the file, empty in the rows before. A file
    that is there is continued.

    Args:
        run_name: of the folder.
        logging_dir: which it is made in.

    Example:
        >>> import tempfile
        >>> tracker = CSVTracker("run", tempfile.mkdtemp())
        >>> tracker.log({"loss": 0.5}, step=1)
        >>> tracker.log({"accuracy": 0.9}, step=1)
        >>> tracker.tracker.read_text().split()
        ['step,loss,accuracy', '1,0.5,', '1,,0.9']
    """

    name, file_name = "csv", "metrics.csv"

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str]) -> None:
        super().__init__(run_name, logging_dir)
        self._columns = ["step"]
        if self._file.exists():
            with self._file.open(newline="") as file:
                self._columns = next(csv.reader(file), self._columns)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Write a row; it is in the file when this returns. Lists are written as JSON.

        Args:
            values: by name; dicts become columns called ``name/key``.
            step: of the training.
            kwargs: of no use here.
        """
        del kwargs
        row = {"step": step, **flat(plain(values))}
        row = {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
        new = [name for name in row if name not in self._columns]
        if new or not self._file.exists():
            self._widen(new)
        with self._file.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _widen(self, new: list[str]) -> None:
        """Write the file with further columns; whoever reads finds the old file or the new one."""
        rows: list[dict[str, Any]] = []
        if self._file.exists():
            with self._file.open(newline="") as file:
                rows = list(csv.DictReader(file))
        self._columns += new
        written = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with written.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        written.replace(self._file)


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
