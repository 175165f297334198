"""Modules whose names are looked up when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def resolver(module: str, homes: Mapping[str, str], into: dict[str, Any]) -> Callable[[str], Any]:
    """Give a module's ``__getattr__``.

    Args:
        module: its name.
        homes: in which module of the package each of its names is defined.
        into: its globals, which remember what was found.

    Example:
        >>> resolver("here", {"ConfigError": "errors"}, {})("ConfigError").__name__
        'ConfigError'
    """

    def resolve(name: str) -> Any:
        if name not in homes:
            raise importlib.import_module("notebook_accel.refused").missing_import(module, name)
        value = getattr(importlib.import_module(f"notebook_accel.{homes[name]}"), name)
        into[name] = value
        return value

    return resolve
