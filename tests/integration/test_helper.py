"""What is said when the helper process cannot be what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel import LaunchError, notebook_launcher
from notebook_accel.launch import forkserver


def test_a_helper_that_cannot_import_torch_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('a broken installation')\n")
    forkserver.shut_down()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.delitem(__import__("sys").modules, "torch", raising=False)
        with pytest.raises(LaunchError, match=r"(?s)helper process ended.*a broken installation"):
            notebook_launcher(max, (1, 2), num_processes=2, devices="cpu")
        forkserver.shut_down()
