"""What a rank that crashed has said last: faulthandler writes the Python lines that called the native code."""

from __future__ import annotations

import linecache
import re

from notebook_accel.origins import is_users, is_workers
from notebook_accel.traces import Frame, Trace

TAIL_BYTES = 64 << 10  # faulthandler writes at most 100 frames of each thread
_FATAL = re.compile(r"^Fatal Python error: (?P<what>.+)$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_LINES_AROUND = 3


def crash_in(output: str) -> Trace | None:
    """Find where the main thread was when the process crashed.

    Args:
        output: the end of what the rank has printed.

    Returns:
        The frames and faulthandler's words, None where it wrote nothing.
    """
    fatal = None
    for fatal in _FATAL.finditer(output):  # noqa: B007 - the last one counts
        pass
    if fatal is None:
        return None
    frames: list[Frame] = []
    in_current = False
    for line in output[fatal.end() :].splitlines():
        match = _FRAME.match(line)
        if line.startswith(("Current thread", "Stack (most recent call first)")):
            in_current = True
        elif match is not None and in_current:
            frames.append(_frame(match["file"], int(match["line"]), match["function"]))
        elif frames:
            break
    callers = next((i for i, frame in enumerate(frames) if is_workers(frame.file)), len(frames))
    return Trace(text=f"Fatal Python error: {fatal['what']}", frames=tuple(reversed(frames[:callers])))


def _frame(file: str, line: int, function: str) -> Frame:
    lines = linecache.getlines(file)
    first = max(1, line - _LINES_AROUND)
    around = tuple(text.rstrip("\n") for text in lines[first - 1 : line + _LINES_AROUND]) if line <= len(lines) else ()
    return Frame(file=file, line=line, function=function, users=is_users(file), source=around, first_line=first)


def as_text(trace: Trace) -> str:
    """Give a trace as Python writes tracebacks."""
    lines = ["Traceback (most recent call last):"]
    for frame in trace.frames:
        lines.append(f'  File "{frame.file}", line {frame.line}, in {frame.function}')
        if frame.source:
            lines.append(f"    {frame.source[frame.line - frame.first_line].strip()}")
    return "\n".join([*lines, trace.text]) + "\n"
