"""What is on its way to the notebook: text, displays and bars, put by threads that read from ranks."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from notebook_accel.launch.bars import Bars, Row
from notebook_accel.launch.bell import Bell
from notebook_accel.wire.events import Cleared, Displayed, Progress

_WAITING_CHARACTERS = 8 << 20
_OVERWRITTEN = re.compile(r"[^\n\r]*\r+(?=[^\n\r])")
_LINE_BEGUN_AGAIN = re.compile(r"\r(?!\n)")


@dataclass(frozen=True)
class Source:
    """Whom something on the screen comes from.

    Attributes:
        run: which run, by anything that no other run has.
        rank: which of its ranks.
        world_size: how many it has.
        label: what stands before each line of it.
    """

    run: Hashable = None
    rank: int = 0
    world_size: int = 1
    label: str = ""


@dataclass(frozen=True)
class Rich:
    """Something on the screen that is no text."""

    source: Source
    event: Displayed | Cleared


@dataclass(frozen=True)
class Batch:
    """What has come since somebody last looked.

    Attributes:
        items: text and displays, in the order in which they came.
        bars: every bar there is, None where none has moved.
    """

    items: list[str | Rich] = field(default_factory=list)
    bars: list[Row] | None = None

    @property
    def text(self) -> str:
        """All of it as text, without the bars."""
        return "".join(item if isinstance(item, str) else _in_words(item) for item in self.items)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.items) or self.bars is not None


def _in_words(rich: Rich) -> str:
    if isinstance(rich.event, Cleared):
        return ""
    text = str(rich.event.data.get("text/plain", "(a display)"))
    return "".join(f"{rich.source.label}{line}\n" for line in text.splitlines())


class Screen:
    """Takes what threads that read from ranks bring, for the cell that shows it.

    No line of one rank is continued by another's. A run in the background may have nobody who looks: of the text that
    waits, only the latest is kept.

    Args:
        limit_characters: how much may wait.

    Example:
        >>> screen = Screen()
        >>> screen.put("hello")
        >>> screen.take().text
        'hello'
    """

    def __init__(self, limit_characters: int = _WAITING_CHARACTERS) -> None:
        self._limit = limit_characters
        self._lock = threading.Lock()
        self._changed = Bell()
        self._waiting: deque[str | Rich] = deque()
        self._size = 0
        self._folded = 0
        self._bars = Bars()
        self._bars_moved = False
        self._open: Source | None = None  # whose line has not ended
        self._nudged = False

    def put(self, text: str, source: Source | None = None) -> None:
        """Add text of a rank, or of the launcher itself."""
        with self._lock:
            if "\r" in text:
                text = _OVERWRITTEN.sub("\r", text.replace("\r\n", "\n"))
            if self._open is None or self._open != source:
                text = text.lstrip("\r")  # nothing stands there yet that could be overwritten
            self._add(self._begun_by(source) + _labelled(text, source))
            self._open = None if text.endswith("\n") else source
        self._changed.ring()

    def _begun_by(self, source: Source | None) -> str:
        """End the line that another has begun, and give what stands at the beginning of a line."""
        if self._open is not None and self._open == source:
            return ""
        return ("\n" if self._open is not None else "") + (source.label if source is not None else "")

    def _add(self, text: str) -> None:
        self._waiting.append(text)
        self._size += len(text)
        while self._size > self._limit and len(self._waiting) > 1:
            dropped = self._waiting.popleft()
            if isinstance(dropped, str):
                self._size -= len(dropped)
                self._folded += len(dropped)

    def put_rich(self, event: Displayed | Cleared, source: Source) -> None:
        """Add a display, or what a rank says about its displays."""
        with self._lock:
            if self._open is not None:
                self._add("\n")
                self._open = None
            self._waiting.append(Rich(source, event))
        self._changed.ring()

    def put_progress(self, event: Progress, source: Source) -> None:
        """Move a bar."""
        with self._lock:
            self._bars.move(event, source.run, source.world_size, source.label)
            self._bars_moved = True
        self._changed.ring()

    def end_line(self) -> None:
        """Let whatever comes next begin at the beginning of a line."""
        with self._lock:
            if self._open is not None:
                self._add("\n")
                self._open = None

    def nudge(self) -> None:
        """Wake whoever waits, once."""
        self._nudged = True
        self._changed.ring()

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait until there is something to take, or for a nudge, at most so long."""
        self._changed.wait_for(lambda: self._waiting or self._bars_moved or self._nudged, timeout_seconds)
        self._nudged = False

    def look(self) -> tuple[tuple[Row, ...], int]:
        """Give the bars as they are and the number of displays that wait, and take nothing."""
        with self._lock:
            return tuple(self._bars.rows()), sum(isinstance(item, Rich) for item in self._waiting)

    def take(self) -> Batch:
        """Give all there is."""
        with self._lock:
            return self._take()

    def _take(self) -> Batch:
        items: list[str | Rich] = []
        if self._folded:
            items.append(f"notebook_accel: {self._folded:,} characters are not shown; .logs(rank) has them all\n")
        pieces: list[str] = []
        for item in self._waiting:
            if isinstance(item, str):
                pieces.append(item)
                continue
            items += ["".join(pieces), item] if pieces else [item]
            pieces = []
        if pieces:
            items.append("".join(pieces))
        bars = self._bars.rows() if self._bars_moved else None
        self._waiting.clear()
        self._size = self._folded = 0
        self._bars_moved = False
        return Batch(items, bars)


def _labelled(text: str, source: Source | None) -> str:
    """Put the label at the beginning of each line but the first, and where a line is begun again."""
    if source is None or not source.label:
        return text
    if "\r" in text:
        text = _LINE_BEGUN_AGAIN.sub(lambda _: f"\r{source.label}", text)
    end = "\n" if text.endswith("\n") else ""
    return text.removesuffix("\n").replace("\n", f"\n{source.label}") + end
