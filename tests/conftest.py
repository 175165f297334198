"""What every test stands on: the leak police, stack dumps of tests that hang, and the skipping of what needs a GPU."""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
from pathlib import Path

import pytest

from tests.leaks import marked_run, no_leaks
from tests.ranks import run_on_ranks

__all__ = ["marked_run", "no_leaks", "run_on_ranks"]

faulthandler.enable()

if importlib.util.find_spec("hypothesis"):
    # A change is judged by the same examples everywhere; new ones are looked for by `make test-search`.
    importlib.import_module("hypothesis").settings.load_profile("ci")
importlib.import_module("IPython.utils.io")  # old versions keep /dev/null open from then on

# Without torch only the kernel's side can be tested, which is to work without it.
if importlib.util.find_spec("torch") is None:
    collect_ignore = ["unit/core", "unit/backends", "unit/worker", "contracts", "integration", "benchmarks", "browser"]
    collect_ignore += ["frameworks"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
