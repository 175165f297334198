"""A traceback as data: taken apart where the exception is, shown where somebody reads it."""

from __future__ import annotations

import itertools
import linecache
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import CodeType, FrameType, TracebackType
from typing import Any, Literal

from notebook_accel.origins import is_launchers, is_users

_LINES_AROUND = 3
_LINES_OF_TEXT = 40
_CHARACTERS_OF_LINE = 500
_OUTER_FRAMES, _INNER_FRAMES = 20, 60
_LONGEST_CHAIN = 8

# What torch makes of an exception in another process or thread: its text is that exception's traceback.
_CARRIED = re.compile(r"^Caught (?P<type>\S+) (?P<where>.+)\.\nOriginal Traceback \(most recent call last\):\n")
_CARRIED_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+), in (?P<function>.*)$')

Leads = Literal["", "cause", "context", "worker"]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of a traceback.

    Attributes:
        file: the file name of its code.
        line: number of the line that ran.
        function: the function's name.
        arguments: names of its arguments, None where they are not known.
        users: whether it is the user's own code, not a library's.
        source: lines around that line, as far as they are known.
        first_line: number of the first of them.
        columns: the part of the line that ran, from and up to, where it is known and not all of it.
        times: how often the frame stands there in a row.
    """

    file: str
    line: int
    function: str
    arguments: tuple[str, ...] | None = None
    users: bool = True
    source: tuple[str, ...] = ()
    first_line: int = 1
    columns: tuple[int, int] | None = None
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One exception of a chain.

    Attributes:
        text: what Python shows below its traceback, type and notes included; the first lines of a long text.
        frames: where it went through, the innermost last.
        left_out_lines: how many lines of the text are not here.
        leads: how it led to the next exception of the chain, nothing for the last one.
    """

    text: str
    frames: tuple[Frame, ...] = ()
    left_out_lines: int = 0
    leads: Leads = ""


def chain_of(error: BaseException) -> tuple[Trace, ...]:
    """Give an exception and what led to it, as Python shows them: the exception itself last."""
    found: list[tuple[BaseException, Leads]] = []
    seen: set[int] = set()
    current: BaseException | None = error
    leads: Leads = ""
    while current is not None and id(current) not in seen and len(found) < _LONGEST_CHAIN:
        found.append((current, leads))
        seen.add(id(current))
        if current.__cause__ is not None:
            current, leads = current.__cause__, "cause"
        elif not current.__suppress_context__:
            current, leads = current.__context__, "context"
        else:
            current = None
    traces = [_traces_of(each, leads) for each, leads in reversed(found)]
    return tuple(itertools.chain.from_iterable(traces))


def carried(error: BaseException) -> tuple[str, str] | None:
    """Give the text of the exception that torch carried here from another process, and from where, if this is one."""
    match = _CARRIED.match(_message(error))
    if match is None:
        return None
    own = re.search(rf"^(?:[\w.]+\.)?{re.escape(match['type'])}(?::|$)", _message(error), re.MULTILINE)
    text = match["type"] if own is None else _message(error)[own.start() :].rstrip()
    return text, match["where"]


def frames_of(start: TracebackType | None) -> tuple[Frame, ...]:
    """Give the frames of a traceback without the launcher's own above the function."""
    walked = list(traceback.walk_tb(start))
    raised_at = _instructions(start)
    first = next((i for i, (frame, _) in enumerate(walked) if not is_launchers(frame.f_code.co_filename)), 0)
    frames: list[Frame] = []
    entries = list(zip(walked, raised_at, strict=True))[first:]
    for (frame, line), instruction in entries:
        if frames and _is_same(frames[-1], frame, line):
            frames[-1] = replace(frames[-1], times=frames[-1].times + 1)
        else:
            frames.append(_frame(frame, line, instruction))
    if len(frames) > _OUTER_FRAMES + _INNER_FRAMES:
        frames = [*frames[:_OUTER_FRAMES], *frames[-_INNER_FRAMES:]]
    return tuple(frames)


def _instructions(start: TracebackType | None) -> list[int]:
    found = []
    while start is not None:
        found.append(start.tb_lasti)
        start = start.tb_next
    return found


def _is_same(before: Frame, frame: FrameType, line: int) -> bool:
    return (before.file, before.line, before.function) == (frame.f_code.co_filename, line, frame.f_code.co_name)


def _frame(frame: FrameType, line: int, instruction: int) -> Frame:
    code = frame.f_code
    linecache.lazycache(code.co_filename, frame.f_globals)
    first, source = _source(code.co_filename, line)
    return Frame(
        file=code.co_filename,
        line=line,
        function=code.co_name,
        arguments=tuple(
            name for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if not name.startswith(".")
        ),
        users=is_users(_owner(frame)),
        source=source,
        first_line=first,
        columns=_columns(code, line, instruction, source[line - first] if source else ""),
    )


def _owner(frame: FrameType) -> str:
    """Give the file that code belongs to; some is made up from text, for example the ``__init__`` of dataclasses."""
    file = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__") or file) if file == "<string>" else file


def _source(file: str, line: int) -> tuple[int, tuple[str, ...]]:
    lines = linecache.getlines(file)
    if not 1 <= line <= len(lines):
        return 1, ()
    first = max(1, line - _LINES_AROUND)
    around = lines[first - 1 : line + _LINES_AROUND]
    return first, tuple(text.rstrip("\n")[:_CHARACTERS_OF_LINE] for text in around)


def _columns(code: CodeType, line: int, instruction: int, text: str) -> tuple[int, int] | None:
    """Find the part of the line that ran, where this Python knows it."""
    positions = getattr(code, "co_positions", None)  # Python 3.11 and newer
    if positions is None or instruction < 0:
        return None
    start, end, from_byte, to_byte = next(itertools.islice(positions(), instruction // 2, None), (None,) * 4)
    if start != line or end != line or from_byte is None or to_byte is None:
        return None
    data = text.encode(errors="replace")
    columns = len(data[:from_byte].decode(errors="replace")), len(data[:to_byte].decode(errors="replace"))
    return None if text[slice(*columns)] in {text.strip(), ""} else columns


def _traces_of(error: BaseException, leads: Leads) -> Iterator[Trace]:
    """Give the trace of one exception, after that of what torch carried here in its text."""
    frames = frames_of(error.__traceback__)
    found = carried(error)
    if found is None:
        yield _trace(_text(error), frames, leads)
        return
    own, where = found
    yield _trace(own, _carried_frames(_message(error)), "worker")
    yield _trace(f"{type(error).__name__}: caught {where}, see above", frames, leads)


def _trace(text: str, frames: tuple[Frame, ...], leads: Leads) -> Trace:
    lines = text.splitlines()
    kept = "\n".join(line[:_CHARACTERS_OF_LINE] for line in lines[:_LINES_OF_TEXT])
    return Trace(text=kept, frames=frames, left_out_lines=max(0, len(lines) - _LINES_OF_TEXT), leads=leads)


def _carried_frames(text: str) -> tuple[Frame, ...]:
    frames = []
    for match in filter(None, map(_CARRIED_FRAME.match, text.splitlines())):
        file, line = match["file"], int(match["line"])
        first, source = _source(file, line)
        frames.append(
            Frame(
                file=file,
                line=line,
                function=match["function"],
                users=is_users(file),
                source=source,
                first_line=first,
            )
        )
    return tuple(frames[-_INNER_FRAMES:])


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise
        return ""


def _text(error: BaseException) -> str:
    """Give what Python shows below a traceback; of a group, a line for each of its exceptions too."""
    try:
        text = "".join(traceback.format_exception_only(type(error), error)).rstrip()
        return "\n".join([text, *_members(error, "  ")])
    except Exception:  # noqa: BLE001 - a user's __str__ may raise
        return f"{type(error).__name__}: (its text cannot be shown)"


def _members(group: Any, indent: str) -> Iterator[str]:
    members = getattr(group, "exceptions", None)
    if not isinstance(members, tuple) or not hasattr(group, "derive"):
        return
    for number, member in enumerate(members, 1):
        own = next((frame for frame in reversed(frames_of(member.__traceback__)) if frame.users), None)
        where = "" if own is None else f' (File "{own.file}", line {own.line}, in {own.function})'
        lines = traceback.format_exception_only(type(member), member)
        yield f"{indent}{number}: {lines[-1].rstrip()}{where}"
        yield from _members(member, indent + "  ")
