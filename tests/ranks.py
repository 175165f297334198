"""Run functions of test files on real ranks, as a notebook does: from one warm helper for all tests."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.launch import forkserver, start
from notebook_accel.launch.job import Call

RunOnRanks = Callable[..., list[dict[str, Any]]]


def keep_helper_warm() -> None:
    """Let the launcher's helper be there with everything imported, before a test's leaks and seconds are counted."""
    forkserver.warm()
    zygote = forkserver._keeper._zygote
    assert zygote is not None
    zygote.preloaded()


@pytest.fixture(scope="module")
def run_on_ranks(marked_run: None) -> RunOnRanks:
    """Call functions one after the other on CPU ranks; give what they returned by rank and name."""
    keep_helper_warm()

    def run_on_ranks(
        *functions: Callable[[], Any], ranks: int = 2, timeout_seconds: float = 60
    ) -> list[dict[str, Any]]:
        names = [(function.__module__, function.__name__) for function in functions]
        config = RunConfig(num_processes=ranks, devices="cpu", timeout_seconds=timeout_seconds)
        return list(start.launch(config, Call(call_each, (names,))).result())

    return run_on_ranks


def call_each(names: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Be a rank: call the functions of these modules and names."""
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module, name in names:
            try:
                results[name] = getattr(importlib.import_module(module), name)()
            except Exception as error:
                raise AssertionError(f"{module}.{name} failed") from error
    return results
