from __future__ import annotations

import multiprocessing.util
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from notebook_accel.worker import scratch
from tests.unit.worker.forks import in_a_fork


def folder_of_a_rank(environ: Mapping[str, str], *, stale: bool = False) -> tuple[str, bool]:
    """Supervise one rank; give the folder that its own processes use, and whether it is there while the rank runs."""

    def be_a_rank() -> tuple[str, bool]:
        scratch.take(environ)
        child = multiprocessing.get_context("fork").Process()
        path = child._config["tempdir"] if "tempdir" in child._config else multiprocessing.util.get_temp_dir()
        return path, Path(path).is_dir()

    def supervise() -> tuple[str, bool]:
        if stale:
            Path(environ["TMPDIR"], f"nbacc-{os.getpid()}").mkdir()
        with scratch.folder(environ):
            found: tuple[str, bool] = in_a_fork(be_a_rank)
            Path(found[0], "left behind").touch()
        return found

    given: tuple[str, bool] = in_a_fork(supervise)
    return given


@pytest.mark.parametrize("stale", [False, True])
def test_processes_of_a_rank_share_a_folder_that_goes_with_the_run(tmp_path: Path, stale: bool):
    path, was_there = folder_of_a_rank({"TMPDIR": str(tmp_path)}, stale=stale)
    assert Path(path).parent == tmp_path
    assert was_there
    assert list(tmp_path.iterdir()) == []


def test_where_no_folder_can_be_made_each_process_has_its_own(tmp_path: Path):
    path, was_there = folder_of_a_rank({"TMPDIR": str(tmp_path / "missing")})
    assert was_there
    assert Path(path).name.startswith("pymp-")
    assert list(tmp_path.iterdir()) == []
    os.remove(Path(path, "left behind"))
    os.rmdir(path)
