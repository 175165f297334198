from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["picker", "wording"])
def test_examples_in_docstrings(name: str):
    module = importlib.import_module(f"notebook_accel.widgets.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed
