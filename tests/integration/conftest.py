from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_core.utils import ensure_event_loop

from tests.integration.kernels import Notebook


@pytest.fixture(scope="session", autouse=True)
def client_loop() -> None:
    """The event loop that Jupyter's client keeps: it is there before each test's leaks are counted."""
    ensure_event_loop()


@pytest.fixture(scope="session")
def kernel(marked_run: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel that has launched before."""
    opened = Notebook(str(tmp_path_factory.mktemp("notebook")))
    try:
        opened.check("from notebook_accel import *\nnotebook_launcher(lambda: 0, num_processes=2)")
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module")
def notebook(kernel: Notebook) -> Notebook:
    """The kernel with the names that a first cell gives it; the cells of one test module share what they add."""
    kernel.check("%reset -sf\nfrom notebook_accel import *")
    return kernel


@pytest.fixture
def fresh_notebook(tmp_path: Path) -> Iterator[Notebook]:
    """A kernel of a test's own."""
    opened = Notebook(str(tmp_path))
    yield opened
    opened.close()
