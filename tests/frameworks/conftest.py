from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frameworks.launches import Launches
from tests.integration.kernels import Notebook


@contextmanager
def kernel(folder: Path) -> Iterator[Launches]:
    notebook = Notebook(str(folder))
    try:
        notebook.check("from notebook_accel import *")
        yield Launches(notebook)
    finally:
        notebook.close()


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Launches, Path]]:
    folder = tmp_path_factory.mktemp("notebook")
    with kernel(folder) as launches:
        launches.notebook.check("notebook_launcher(lambda: 0, num_processes=2)")
        yield launches, folder


@pytest.fixture
def launches(_shared: tuple[Launches, Path]) -> Iterator[Launches]:
    """A kernel whose folder must be empty after each test; the tests of one module share it."""
    launches, folder = _shared
    yield launches
    assert list(folder.iterdir()) == [], "a framework has written where the notebook lies"


@pytest.fixture
def fresh_launches(tmp_path: Path) -> Iterator[Launches]:
    """A kernel of a test's own, which has not launched before."""
    with kernel(tmp_path) as launches:
        yield launches
