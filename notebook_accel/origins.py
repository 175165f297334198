"""Where code comes from, by its file name: a cell, a file of the user's, or a library; and how it is called there."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

_PACKAGE_FOLDER = str(Path(__file__).resolve().parent) + os.sep
_STANDARD_LIBRARY = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
_MADE_UP = ("<frozen ", "<__array_function__", "<eval_with_key>")
_INSTALLED_FOLDER = re.compile(r"^.*/(?:site|dist)-packages/")
_LAST_CELLS = 500  # further back a cell is not looked for by its text


def is_launchers(file: str) -> bool:
    """Say whether code of this package lies in a file."""
    return file.startswith(_PACKAGE_FOLDER)


def is_workers(file: str) -> bool:
    """Say whether code of this package lies in a file that calls the function in a rank."""
    return file.startswith(f"{_PACKAGE_FOLDER}worker{os.sep}")


def is_users(file: str) -> bool:
    """Say whether code is the user's own: of a cell, or of a file that is not installed."""
    libraries = (*_STANDARD_LIBRARY, *_INSTALLED, _PACKAGE_FOLDER, *_MADE_UP)
    return not file.startswith(libraries) and _INSTALLED_FOLDER.match(file) is None


def short_name(file: str) -> str:
    """Give the name of a file as a reader knows it: a library's from its package on, the user's from their home on.

    Example:
        >>> short_name("/usr/lib/python3/dist-packages/torch/nn/modules/linear.py")
        'torch/nn/modules/linear.py'
    """
    if is_launchers(file):
        return f"notebook_accel/{file[len(_PACKAGE_FOLDER) :]}"
    in_package = _INSTALLED_FOLDER.sub("", file)
    if in_package != file:
        return in_package
    for folder in (*_INSTALLED, *_STANDARD_LIBRARY):
        if file.startswith(folder):
            return file[len(folder) :]
    home = str(Path.home()) + os.sep
    return f"~/{file[len(home) :]}" if file.startswith(home) else file


def shell() -> Any:
    """Give this process's IPython, None where it has none; it is never imported for that."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return None if get_ipython is None else get_ipython()


def cell_name(file: str) -> str | None:
    """Give the name of the cell whose code has this file name, as IPython says it: ``Cell In[3]``; None for others."""
    ipython = shell()
    if ipython is None or not _may_be_a_cell(file):
        return None
    try:
        name_of = getattr(ipython.compile, "format_code_name", None)
        if name_of is not None:
            named = name_of(file)
            return None if named is None else " ".join(named)
        number = _number_of_cell(ipython, file)
    except Exception:  # noqa: BLE001 - a front end with a compiler of its own: the file name will do
        return None
    return None if number is None else f"Cell In[{number}]"


def _may_be_a_cell(file: str) -> bool:
    return file.startswith("<ipython-input-") or "ipykernel" in file or not os.path.exists(file)  # noqa: PTH110 - odd names


def _number_of_cell(ipython: Any, file: str) -> int | None:
    """Find a cell by its text, as IPython 7 remembers no names of cells."""
    history = ipython.history_manager
    cells = list(zip(history.input_hist_raw, history.input_hist_parsed, strict=False))
    for number in range(len(cells) - 1, max(0, len(cells) - 1 - _LAST_CELLS), -1):
        raw, parsed = cells[number]
        for end in ("", "\n"):  # the history has lost the line ends after the last line
            if ipython.compile.get_code_name(raw + end, parsed + end, number) == file:
                return number
    return None


def place(file: str, line: int) -> str:
    """Say where a line is: ``Cell In[3], line 5`` or ``File ~/model.py:5``."""
    cell = cell_name(file)
    return f"{cell}, line {line}" if cell is not None else f"File {short_name(file)}:{line}"
