"""Show tracebacks the way IPython's users know them, in few lines: their own code first, libraries folded.

It is loaded when an error is shown in a notebook, not before.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from notebook_accel.origins import cell_name, place, shell, short_name
from notebook_accel.traces import Frame, Trace, chain_of

if TYPE_CHECKING:
    from notebook_accel.errors import RankFailed
    from notebook_accel.wire.outcome import Failure

MOST_LINES = 25
_LINES_OF_TEXT = 12
_CHARACTERS_OF_LINE = 200
_NUMBER_WIDTH = 7
_FILE_LINE = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')
_GLOO_PLACE = re.compile(r"\[\S+\.cc:\d+\] ")
_GLOO_PEER = re.compile(r"\s*\[[\d.:a-f]*\](?::\d+)?")
_LEADS = {
    "cause": "The above exception was the direct cause of the following one:",
    "context": "During handling of the above exception, another one occurred:",
    "worker": "It came here from another process or thread:",
}


@dataclass(frozen=True)
class Colours:
    """The colours of IPython's tracebacks, or none."""

    green: str = "\x1b[32m"
    cyan: str = "\x1b[36m"
    blue: str = "\x1b[34m"
    red: str = "\x1b[31m"
    marked: str = "\x1b[43m"
    plain: str = "\x1b[39m"
    unmarked: str = "\x1b[49m"

    @staticmethod
    def of_shell() -> Colours:
        """Give the colours of this process's IPython, none where it has none or wants none."""
        wanted = str(getattr(shell(), "colors", "nocolor"))
        return Colours(*[""] * 7) if wanted.lower() == "nocolor" else Colours()


@dataclass(frozen=True)
class Detail:
    """How much of a traceback is shown.

    Attributes:
        innermost: lines before and after that of the user's innermost frame.
        others: the same of their other frames; None for the line of code behind the frame's place.
        most_frames: how many of their frames are shown.
    """

    innermost: int
    others: int | None
    most_frames: int


_DETAILS = (
    Detail(2, 2, 50),
    Detail(2, 1, 50),
    Detail(2, 0, 50),
    Detail(1, 0, 50),
    Detail(1, None, 12),
    Detail(1, None, 6),
)
_IN_SHORT = Detail(0, None, 3)
_WHERE_IT_WAS = Detail(2, 0, 4)  # the worker's code is what matters, not that of the rank that waited for it


def show_failures(error: RankFailed) -> list[str]:
    """Show why a run failed: the first failure with its traceback, the others in a line each, the hint."""
    colours = Colours.of_shell()
    first, *others = error.failures
    head = [f"{colours.red}{type(error).__name__}{colours.plain}: {_cut(error.what)}"]
    hint = f"  -> {error.hint}"
    said = bool(first.chain) and first.chain[-1].text.endswith(hint)
    tail = [*_others(others), *([] if said else hint.splitlines())]
    if not first.chain:
        told = first.traceback.rstrip()
        return [*head, *(_text_lines(told, 0, colours) if told else []), *tail]
    before = [line for trace in first.chain[:-1] for line in _earlier(trace, colours)]
    room = MOST_LINES - len(head) - len(tail)
    if [trace.leads for trace in first.chain[-2:-1]] == ["worker"]:
        room = 0
    return [*head, *before, *_last(first.chain[-1], max(room - len(before), room // 2), colours), *tail]


def show_error(error: BaseException) -> list[str]:
    """Show an error of the launcher: the user's own frames that led to it, and all that it says."""
    colours = Colours.of_shell()
    *earlier, last = [
        replace(trace, frames=tuple(frame for frame in trace.frames if frame.users)) for trace in chain_of(error)
    ]
    before = [line for trace in earlier if trace.frames for line in _earlier(trace, colours)]
    first, *rest = str(error).splitlines() or [""]
    lines = _fit(last.frames, MOST_LINES - 1 - len(rest), colours)
    name = f"{colours.red}{type(error).__name__}{colours.plain}"
    return [*before, *lines, *([""] if lines else []), f"{name}: {first}", *rest]


def _earlier(trace: Trace, colours: Colours) -> list[str]:
    """Show in short what led to the exception."""
    detail = _WHERE_IT_WAS if trace.leads == "worker" else _IN_SHORT
    lines = list(_frame_lines(trace.frames, detail, colours))
    return [*lines, *_text_lines(trace.text, trace.left_out_lines, colours)[:4], "", _LEADS.get(trace.leads, ""), ""]


def _last(trace: Trace, room: int, colours: Colours) -> list[str]:
    text = _text_lines(trace.text, trace.left_out_lines, colours)
    frames = _fit(trace.frames, room - len(text) - 1, colours)
    return [*frames, *([""] if frames else []), *text]


def _fit(frames: Sequence[Frame], room: int, colours: Colours) -> list[str]:
    """Show as much of the frames as there is room for."""
    lines: list[str] = []
    for detail in _DETAILS:
        lines = list(_frame_lines(frames, detail, colours))
        if len(lines) <= room:
            break
    return lines


def _frame_lines(frames: Sequence[Frame], detail: Detail, colours: Colours) -> Iterator[str]:
    """Show the user's frames and, in a line each, runs of others; the innermost frame in any case."""
    own = [i for i, frame in enumerate(frames) if frame.users]
    middle = own[detail.most_frames // 2 : len(own) - (detail.most_frames + 1) // 2]
    left_out = range(middle[0], middle[-1] + 1) if middle else range(0)
    last = len(frames) - 1

    def kind(entry: tuple[int, Frame]) -> str:
        number, frame = entry
        if number in left_out:
            return "left out"
        return "shown" if frame.users or number == last else "library"

    for what, group in itertools.groupby(enumerate(frames), kind):
        entries = list(group)
        if what != "shown":
            yield _folded([frame for _, frame in entries], own=what == "left out")
            continue
        for number, frame in entries:
            following = frames[number + 1] if number < last else None
            if following is not None and (following.file, following.line) == (frame.file, frame.line):
                yield _where(frame, colours)  # a comprehension, for example: its line is shown once
                continue
            around = detail.innermost if own and number == own[-1] else detail.others if frame.users else 0
            yield from _one_frame(frame, around, colours)


def _folded(frames: Sequence[Frame], *, own: bool) -> str:
    count = sum(frame.times for frame in frames)
    files = Counter(frame.file for frame in frames)
    (file, _), *_ = files.most_common(1)
    others = f" and {len(files) - 1} other file{'s' if len(files) > 2 else ''}" if len(files) > 1 else ""  # noqa: PLR2004
    more = " more" if own else ""
    return f"... {count}{more} frame{'s' if count > 1 else ''} in {cell_name(file) or short_name(file)}{others} ..."


def _where(frame: Frame, colours: Colours) -> str:
    where = f"{colours.green}{place(frame.file, frame.line)}{colours.plain}"
    if not frame.function.startswith(("<module>", "<cell line")):  # a cell's own lines, in IPython's words too
        arguments = "" if frame.arguments is None else f"({', '.join(frame.arguments)})"
        where += f", in {colours.cyan}{frame.function}{colours.blue}{arguments}{colours.plain}"
    if frame.times > 1:
        where += f", {frame.times} times in a row"
    return where


def _one_frame(frame: Frame, around: int | None, colours: Colours) -> Iterator[str]:
    where = _where(frame, colours)
    if not frame.source:
        yield where
    elif around is None:
        yield f"{where}: {_cut(frame.source[frame.line - frame.first_line].strip())}"
    else:
        yield where
        yield from _source_lines(frame, around, colours)


def _source_lines(frame: Frame, around: int, colours: Colours) -> Iterator[str]:
    numbered = [
        (number, text)
        for number, text in enumerate(frame.source, frame.first_line)
        if abs(number - frame.line) <= around
    ]
    while numbered[-1][0] > frame.line and not numbered[-1][1].strip():
        numbered.pop()
    for number, text in numbered:
        line = _cut(text)
        if number != frame.line:
            yield f"{colours.green}{number:>{_NUMBER_WIDTH}}{colours.plain} {line}".rstrip()
            continue
        arrow = "-" * (_NUMBER_WIDTH - len(str(number)) - 2) + "> "
        if frame.columns is not None and frame.columns[1] <= len(line):
            start, end = frame.columns
            line = f"{line[:start]}{colours.marked}{line[start:end]}{colours.unmarked}{line[end:]}"
        yield f"{colours.green}{arrow}{number}{colours.plain} {line}"


def _text_lines(text: str, left_out: int, colours: Colours) -> list[str]:
    """Show an exception's text, with the names of cells and within bounds."""
    lines = text.splitlines() or [""]
    left_out += max(0, len(lines) - _LINES_OF_TEXT)
    shown = [_cut(_with_cells(line)) for line in lines[:_LINES_OF_TEXT]]
    name, colon, rest = shown[0].partition(":")
    if re.fullmatch(r"[\w.]+", name):
        shown[0] = f"{colours.red}{name}{colours.plain}{colon}{rest}"
    if left_out:
        shown.append(f"... {left_out:,} more lines; sys.last_value.failures[0].traceback has all ...")
    return shown


def _with_cells(text: str) -> str:
    def named(match: re.Match[str]) -> str:
        cell = cell_name(match["file"])
        return match[0] if cell is None else f"{cell}, line {match['line']}"

    return _FILE_LINE.sub(named, text)


def _others(failures: Sequence[Failure]) -> Iterator[str]:
    """Say in a line each what else failed; ranks with the same failure share one."""
    by_headline: dict[str, list[int]] = {}
    for failure in failures:
        headline = failure.headline
        if failure.knock_on:
            headline = _GLOO_PEER.sub("", _GLOO_PLACE.sub("", headline)).partition(". ")[0]
        by_headline.setdefault(headline, []).append(failure.rank)
    for headline, ranks in by_headline.items():
        yield f"{ranks_in_words(ranks)} afterwards: {_cut(headline)}"


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Give "rank 3", "ranks 0 and 3", "ranks 0, 1 and 3".

    Example:
        >>> ranks_in_words([0, 1, 3])
        'ranks 0, 1 and 3'
    """
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    *most, last = map(str, sorted(ranks))
    return f"ranks {', '.join(most)} and {last}"


def _cut(line: str) -> str:
    return line if len(line) <= _CHARACTERS_OF_LINE else f"{line[:_CHARACTERS_OF_LINE]}..."
