"""Where a rank was, in words, from the stack that it wrote when it was asked."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

from notebook_accel.origins import cell_name, is_users

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')


def place_of(stack: str) -> str:
    r"""Give the innermost line of the user's own code, and what it called where that is a library.

    Args:
        stack: what faulthandler wrote, the innermost frame first.

    Example:
        >>> place_of('Current thread:\n  File "train.py", line 7 in train\n')
        'in train (train.py, line 7)'
    """
    frames = [match for match in map(_FRAME.match, stack.splitlines()) if match is not None]
    own = [frame for frame in frames if is_users(frame["file"])]
    if not own:
        return "in the launcher, before or after the function" if frames else "it did not say where"
    frame = own[0]
    source = linecache.getline(frame["file"], int(frame["line"])).strip()
    where = f"in {frame['function']} ({_short(frame['file'])}, line {frame['line']})"
    return f"{where}: {source}" if source else where


def _short(file: str) -> str:
    return cell_name(file) or Path(file).name
