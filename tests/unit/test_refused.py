"""What Hugging Face Accelerate has for engines that are not built here is refused by name."""

from __future__ import annotations

import importlib

import pytest

from notebook_accel import refused
from notebook_accel.errors import NotAvailableError


@pytest.mark.parametrize("module", ["notebook_accel", "notebook_accel.utils"])
def test_imports_of_other_engines_are_refused_by_name(module: str) -> None:
    for name in refused.IMPORTS:
        with pytest.raises(NotAvailableError, match=f"{module}.{name} is for .* not built here"):
            exec(f"from {module} import {name}")
    with pytest.raises(ImportError, match="FullyShardedDataParallelPlugin"):
        exec(f"from {module} import FullyShardedDataParallelPlugin")
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"):
        exec(f"from {module} import no_such_name")
    with pytest.raises(AttributeError):
        _ = importlib.import_module(module).no_such_name
