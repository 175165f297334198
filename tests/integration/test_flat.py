"""A kernel that launches all day keeps its size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.kernels import Notebook, names
from tests.integration.test_launch import literal
from tests.leaks import in_use_elsewhere
from tests.patience import wait_until

WARM_UP = 20
LAUNCHES = 200
A_CELL = 20
MOST_GROWTH_BYTES = 5_000_000

CELL = f"""
for i in range({A_CELL}):
    if i % 5 == 0:
        with share(table) as shared:
            assert list(notebook_launcher(lambda: shared.value.sum().item(), num_processes=2)) == [0, 0]
    elif i % 5 == 1:
        try:
            notebook_launcher(broken, num_processes=2)
        except RankFailed as failed:
            assert failed.rank in (0, 1)
    elif i % 5 == 2:
        run = notebook_launcher(train, (float(i),), 2, block=False)
        assert list(run.result()) == [i * 2.0] * 2
    elif i % 5 == 3:
        run = notebook_launcher(train, (float(i),), 2, block=False)
        assert list(await run) == [i * 2.0] * 2
    else:
        assert list(notebook_launcher(train, (float(i),), 2)) == [i * 2.0] * 2
del run
gc.collect()
"""
PREPARATION = """
import gc, torch
from notebook_accel import *
table = torch.zeros(500_000)
def broken():
    raise ValueError("as it should")
def train(x):
    print("a line")
    return x * 2
"""
COUNT = """
import os, threading
print((len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')), threading.active_count()))
"""


@pytest.fixture
def own_folder_notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A kernel with a folder for temporary files that nobody else uses."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    opened = Notebook(str(tmp_path), {"TMPDIR": str(folder)})
    try:
        yield opened
    finally:
        opened.close()


def state(notebook: Notebook, folder: Path) -> dict[str, Any]:
    """What the kernel and its helper have, once no run is left."""
    assert wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 8), notebook.descendants()
    (zygote,) = notebook.descendants()
    descriptors, threads, python_threads = literal(notebook.check(COUNT))  # type: ignore[misc]
    return {
        "the kernel's": (descriptors, threads, python_threads),
        "the helper's": (zygote.num_fds(), zygote.num_threads()),
        "the helper": zygote.pid,
        "temporary files": sorted(entry.name for entry in folder.iterdir()),
    }


def own_bytes(notebook: Notebook) -> tuple[int, int]:
    """The memory that the kernel and its helper have to themselves."""
    processes = [psutil.Process(notebook.pid), *notebook.descendants()]
    kernel, zygote = (process.memory_full_info().uss for process in processes)
    return kernel, zygote


@pytest.mark.slow
def test_two_hundred_launches_in_a_row_leave_nothing_behind(own_folder_notebook: Notebook, tmp_path: Path) -> None:
    notebook, folder = own_folder_notebook, tmp_path / "temporary"
    notebook.check(PREPARATION)
    for _ in range(WARM_UP // A_CELL):
        notebook.check(CELL)
    before, bytes_before, shared_before = state(notebook, folder), own_bytes(notebook), _shared_memory()
    for _ in range(LAUNCHES // A_CELL):
        notebook.check(CELL)
    after, bytes_after = state(notebook, folder), own_bytes(notebook)
    growth = [now - then for then, now in zip(bytes_before, bytes_after, strict=True)]
    print(f"grown by {growth[0] / 1e6:.2f} MB (kernel), {growth[1] / 1e6:.2f} MB (helper); {after}")
    # What is left stays left; the kernel opens a file of its own now and then, and closes it.
    assert wait_until(lambda: no_more(before, state(notebook, folder)), 5), (before, state(notebook, folder))
    assert after["the helper"] == before["the helper"]
    assert after["temporary files"] == before["temporary files"]
    left = {name for name in _shared_memory() - shared_before if not in_use_elsewhere(name)}
    assert not left, left
    assert max(growth) < MOST_GROWTH_BYTES, growth


def no_more(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether nothing has become more; it is less when something older was collected meanwhile."""
    sides = ("the kernel's", "the helper's")
    return all(now <= then for side in sides for then, now in zip(before[side], after[side], strict=True))


def _shared_memory() -> set[str]:
    return {entry.name for entry in Path("/dev/shm").iterdir()}
