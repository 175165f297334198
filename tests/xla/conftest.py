"""What the tests with the real torch_xla stand on, and the skipping of them where it is not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch_xla") is not None:
        return
    for item in items:
        if item.get_closest_marker("xla"):
            item.add_marker(pytest.mark.skip(reason="torch_xla is not installed"))


@pytest.fixture(autouse=True)
def compilations_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for compiled programs of a test's own."""
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "compilations"
