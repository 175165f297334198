"""What was chosen last in each notebook, kept in a file between its kernels."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

from notebook_accel import environment
from notebook_accel.config import RunConfig
from notebook_accel.errors import AccelError

_MOST_FILES = 200


class Remembered:
    """The choice of one notebook. Where the notebook is not known nothing is kept, and whatever fails costs nothing.

    Args:
        notebook: its path, None where it is not known.
        folder: for the files of all notebooks.
    """

    def __init__(self, notebook: str | None, folder: Path) -> None:
        self._file = None if notebook is None else folder / f"{_file_name(notebook)}.yaml"

    @staticmethod
    def here() -> Remembered:
        """Give the choice of the notebook that this kernel belongs to."""
        return Remembered(environment.notebook_path(), Path(environment.home_folder()) / "picker")

    @staticmethod
    def nowhere() -> Remembered:
        """Give a choice that is not kept."""
        return Remembered(None, Path())

    def load(self) -> RunConfig | None:
        """Give what was chosen, None where nothing was."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            return RunConfig.load(self._file)
        except AccelError:
            return None  # of another version, or written by somebody else

    def save(self, config: RunConfig) -> None:
        """Keep a choice."""
        if self._file is None:
            return
        with suppress(OSError):  # a read-only home, or a full one
            self._file.parent.mkdir(parents=True, exist_ok=True)
            config.save(self._file)
            self._make_room()

    def _make_room(self) -> None:
        assert self._file is not None
        files = sorted(self._file.parent.glob("*.yaml"), key=lambda file: file.stat().st_mtime)
        for file in files[:-_MOST_FILES]:
            file.unlink(missing_ok=True)


def _file_name(notebook: str) -> str:
    """Give a name that tells people and machines apart which notebook it is of."""
    stem = re.sub(r"[^\w-]+", "-", Path(notebook).stem)[:40].strip("-") or "notebook"
    return f"{stem}-{hashlib.sha256(notebook.encode()).hexdigest()[:12]}"
