"""Where a run that a button started is seen: in the picker itself, since a button has no cell of its own."""

from __future__ import annotations

import contextvars
import html
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from notebook_accel.errors import AccelError
from notebook_accel.launch.bars import Row, html_of
from notebook_accel.launch.run import Run
from notebook_accel.launch.screen import Batch, Rich
from notebook_accel.launch.view import View

from .cards import CODE, FONT

_TAIL_CHARACTERS = 8000


class RunPlace(View):
    """Draws one run after another, each as HTML that says all of it anew.

    Args:
        draw: takes the HTML, in any thread.
    """

    pause_seconds = 0.25

    def __init__(self, draw: Callable[[str], None]) -> None:
        super().__init__()
        self._draw_html = draw
        self._head = ""
        self._tail = ""
        self._bars = ""
        self._thread: threading.Thread | None = None

    def follow(self, run: Run[Any], notices: Iterable[str], when_ended: Callable[[], None]) -> None:
        """Draw a run until it has ended, while the notebook goes on.

        Args:
            run: the run.
            notices: what should be known about its start.
            when_ended: called then, in another thread.
        """
        self._tail, self._bars = "".join(f"notebook_accel: {notice}\n" for notice in notices), ""
        self._head = _state_html("●", f"{run.name} runs", str(run.plan))
        self._show(self._head)
        context = contextvars.copy_context()  # what is sent belongs to the cell whose button was pressed
        self._thread = threading.Thread(
            target=context.run, args=(self._follow, run, when_ended), name="notebook_accel-picker-run", daemon=True
        )
        self._thread.start()

    def wait(self, timeout_seconds: float) -> None:
        """Wait until the end has been drawn."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def _follow(self, run: Run[Any], when_ended: Callable[[], None]) -> None:
        try:
            run.show_into(self)
            self._show(*_ending_html(run))
        finally:
            when_ended()

    def refuse(self, error: Exception) -> None:
        """Say why nothing was started."""
        self._tail, self._bars = "", ""
        self._show(_state_html("✘", "not launched", ""), _failure_html(str(error)))

    def draw(self, batch: Batch) -> None:
        """Draw what has arrived."""
        self._tail = (self._tail + batch.text)[-_TAIL_CHARACTERS:]
        if batch.bars is not None:
            self._draw_bars(batch.bars)
        self._show(self._head)

    def finish(self) -> None:
        """Do nothing: the end is drawn with what the run has come to."""

    def _draw_rich(self, rich: Rich) -> None:
        """Do nothing: a batch's text has it in words."""

    def _draw_bars(self, rows: Sequence[Row]) -> None:
        self._bars = html_of(list(rows))

    def _show(self, head: str, result: str = "") -> None:
        output = ""
        if self._tail:
            # Columns that run backwards keep the last line in sight.
            box = "max-height:220px;overflow:auto;display:flex;flex-direction:column-reverse"
            text = f"{CODE};flex:none;overflow:visible;margin:0;white-space:pre-wrap;color:inherit"
            output = (
                f'<div role="log" aria-label="output" style="{box}"><pre style="{text}">{html.escape(self._tail)}</pre>'
                "</div>"
            )
        self._draw_html(f'<div style="{FONT}">{head}{self._bars}{output}{result}</div>')


def _state_html(mark: str, words: str, more: str) -> str:
    small = f" <small>{html.escape(more)}</small>" if more else ""
    return f'<div role="status" aria-live="polite">{mark} <b>{html.escape(words)}</b>{small}</div>'


def _failure_html(text: str) -> str:
    style = f"{CODE};border-left:3px solid var(--jp-error-color1,#d32f2f);padding:2px 8px;margin:4px 0"
    return f'<pre role="alert" style="{style};white-space:pre-wrap;color:inherit">{html.escape(text)}</pre>'


def _ending_html(run: Run[Any]) -> tuple[str, str]:
    """Say how a run ended, and what it gave."""
    notices = "".join(f"<div>notebook_accel: {html.escape(notice)}</div>" for notice in run.notices())
    try:
        result = run.result()
    except AccelError as error:
        return _state_html("✘", f"{run.name} {run.state}", str(run.plan)), _failure_html(str(error)) + notices
    given = f'<pre style="{CODE};margin:4px 0;white-space:pre-wrap;color:inherit">{html.escape(repr(result))}</pre>'
    return _state_html("✔", f"{run.name} {run.state}", str(run.plan)), given + notices
