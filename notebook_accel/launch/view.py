"""Draw what ranks print and show: in a cell of a notebook, or in a terminal."""

from __future__ import annotations

import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from notebook_accel import environment
from notebook_accel.launch.bars import Row, html_of, text_of
from notebook_accel.launch.interrupts import interrupts_held
from notebook_accel.launch.screen import Batch, Rich, Screen, Source
from notebook_accel.wire.events import Cleared, Displayed

_BURST_CHARACTERS = 1 << 18
_CHARACTERS_A_SECOND = 1 << 14
_TAIL_CHARACTERS = 1 << 12


class View(ABC):
    """Draws batches of what arrives; used by one thread."""

    pause_seconds = 0.1  # between batches, so that a front end can keep up

    @property
    def idle_seconds(self) -> float | None:
        """How long to wait for something to draw; None to wait for it, however long."""
        return None

    def __init__(self) -> None:
        self._flood = Flood()

    def draw_from(self, screen: Screen) -> None:
        """Draw what waits there; an interrupt takes effect afterwards, or some of it would be seen nowhere."""
        with interrupts_held():
            self.draw(screen.take())

    def draw(self, batch: Batch) -> None:
        """Draw what has arrived."""
        for item in batch.items:
            if isinstance(item, str):
                self._write(self._flood.cut(item))
            else:
                self._write(self._flood.rest())
                self._draw_rich(item)
        if batch.bars is not None:
            self._draw_bars(batch.bars)

    def finish(self) -> None:
        """Draw what is left: everything has arrived."""
        with interrupts_held():
            self._write(self._flood.rest())
        sys.stdout.flush()

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.write(text)

    @abstractmethod
    def _draw_rich(self, rich: Rich) -> None:
        """Draw a display."""

    @abstractmethod
    def _draw_bars(self, rows: list[Row]) -> None:
        """Draw all bars in place of those drawn before."""


class Flood:
    """Folds text that comes faster than anybody reads; its last lines are kept and shown when it ebbs."""

    def __init__(self) -> None:
        self._allowance = float(_BURST_CHARACTERS)
        self._filled_at = time.monotonic()
        self._folded = 0
        self._tail = ""

    def cut(self, text: str) -> str:
        """Give what of ``text`` may be shown now."""
        now = time.monotonic()
        self._allowance += (now - self._filled_at) * _CHARACTERS_A_SECOND
        self._allowance = min(self._allowance, _BURST_CHARACTERS)
        self._filled_at = now
        if len(text) + len(self._tail) <= self._allowance:
            shown = self.rest() + text
            self._allowance -= len(shown)
            return shown
        waiting = self._tail + text
        tail_at = max(0, len(waiting) - _TAIL_CHARACTERS)
        cut_at = waiting.find("\n", tail_at, -1) + 1 or tail_at
        self._folded += cut_at
        self._tail = waiting[cut_at:]
        return ""

    def rest(self) -> str:
        """Give the last lines of what was held back, and how much is missing before them."""
        missing = f"notebook_accel: {self._folded:,} characters folded; .logs(rank) has them\n" if self._folded else ""
        text = missing + self._tail
        self._folded, self._tail = 0, ""
        return text


class TextView(View):
    """Draws in a terminal or a file."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = 0
        self._is_terminal = sys.stderr.isatty()

    def _draw_rich(self, rich: Rich) -> None:
        self._write(Batch([rich]).text)

    def _draw_bars(self, rows: list[Row]) -> None:
        """Write a line for each bar that has ended; a terminal shows the last of the others in a line of its own."""
        ended = [row for row in rows if row.ended]
        new = ended[min(self._ended, len(ended)) :]
        self._ended = len(ended)
        erase = "\r\033[K" if self._is_terminal else ""
        sys.stderr.write("".join(f"{erase}{row.text()}\n" for row in new))
        moving = [row for row in rows if not row.ended]
        if self._is_terminal and moving:
            sys.stderr.write(f"{erase}{moving[-1].text()}")
        sys.stderr.flush()


class CellView(View):
    """Draws in the output of a notebook's cell."""

    def __init__(self) -> None:
        super().__init__()
        self._bars_id = ""
        self._shown: dict[Source, list[str]] = {}  # names of what a rank has displayed
        self._cleared: dict[Source, list[str]] = {}  # those whose place the next display takes

    def _draw_rich(self, rich: Rich) -> None:
        source, event = rich.source, rich.event
        if isinstance(event, Cleared):
            self._cleared.setdefault(source, []).extend(self._shown.pop(source, []))
            return
        places = self._cleared.pop(source, [])
        name = _name(source, event)
        if event.update and not places:
            publish(event.data, event.metadata, name, update=True)
            return
        if places:
            name = places.pop(0)
            publish(event.data, event.metadata, name, update=True)
            for place in places:
                publish({"text/plain": ""}, {}, place, update=True)
        else:
            self._write(f"{source.label}\n" if source.label else "")
            publish(event.data, event.metadata, name, update=False)
        self._shown.setdefault(source, []).append(name)

    def _draw_bars(self, rows: list[Row]) -> None:
        update = bool(self._bars_id)
        self._bars_id = self._bars_id or f"notebook_accel-{uuid.uuid4().hex}"
        publish({"text/plain": text_of(rows), "text/html": html_of(rows)}, {}, self._bars_id, update=update)


class Blind(View):
    """Draws nothing; what there was is in the logs."""

    def draw(self, batch: Batch) -> None:
        """Let it go by."""

    def finish(self) -> None:
        """Do nothing."""

    def _draw_rich(self, rich: Rich) -> None:
        """Draw nothing."""

    def _draw_bars(self, rows: list[Row]) -> None:
        """Draw nothing."""


def _name(source: Source, event: Displayed) -> str:
    """Give the name of a display; ranks that use the same names do not overwrite each other."""
    if not event.display_id:
        return uuid.uuid4().hex
    return event.display_id if source.rank == 0 else f"{event.display_id}-rank{source.rank}"


def publish(data: Mapping[str, Any], metadata: Mapping[str, Any], name: str, *, update: bool) -> None:
    """Show something in the notebook.

    Args:
        data: its forms, by MIME type.
        metadata: about the forms.
        name: by which it can be replaced.
        update: whether it replaces what was shown under that name, in whatever cell, instead of being added here.
    """
    import IPython.display  # noqa: PLC0415 - a script need not load a notebook's packages

    sys.stdout.flush()  # what was written before is to stand before
    publish: Any = IPython.display.publish_display_data
    publish(dict(data), dict(metadata), transient={"display_id": name}, update=update)


def view_here() -> View:
    """Give the view of lines and bars that suits this process.

    Raises:
        ConfigError: NOTEBOOK_ACCEL_UI is no word that means something.
    """
    asked = environment.ui()
    if asked == "off":
        return Blind()
    return CellView() if environment.in_notebook_kernel() and asked != "text" else TextView()
