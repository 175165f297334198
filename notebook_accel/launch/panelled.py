"""Runs that take longer than a moment get a panel; it is reached by its name, since a script needs no widgets."""

from __future__ import annotations

import importlib
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from notebook_accel import environment
from notebook_accel.launch.interrupts import interrupts_held
from notebook_accel.launch.screen import Batch
from notebook_accel.launch.view import CellView, publish

if TYPE_CHECKING:
    from notebook_accel.launch.run import Run

MOMENT_SECONDS = 1.0  # what takes no longer stays plain text
_PUMP_SECONDS = 0.1


class RunPanel(Protocol):
    """What shows a run live; ``notebook_accel.widgets.panel.Panel`` is one."""

    def open(self, name: str = "") -> None:
        """Show it here, in place of the display ``name`` if one is named."""

    def open_later(self, name: str, after_seconds: float) -> None:
        """Let it take the place of a display after a while, or what stays of the run if that ends before."""

    def pump(self) -> None:
        """Look for presses of buttons."""

    def close(self) -> None:
        """Wait until what stays of the ended run is in place."""


def panel_kind() -> str | None:
    """Say what kind of panel suits this process: "widgets", "html", or None for none.

    Raises:
        ConfigError: NOTEBOOK_ACCEL_UI is no word that means something.
    """
    asked = environment.ui()
    if not environment.in_notebook_kernel():
        return None
    if asked == "auto":
        return "widgets" if environment.has_front_end() else None
    return asked if asked in {"widgets", "html"} else None


def make_panel(run: Run[Any], kind: str) -> RunPanel | None:
    """Make the panel of a run, once; None, and a word about it, where the packages for it are not there.

    Args:
        run: the run.
        kind: "widgets" or "html".
    """
    if run.panel is None:
        try:
            run.panel = importlib.import_module("notebook_accel.widgets.panel").Panel(run, kind)
        except ImportError as error:
            sys.stdout.write(f"notebook_accel: no run panel: {error}; NOTEBOOK_ACCEL_UI=text asks for none\n")
    return run.panel


class PanelledView(CellView):
    """Draws in the cell for a moment, and then leaves text and bars to the run's panel.

    Args:
        run: the run.
        kind: "widgets" or "html".
    """

    def __init__(self, run: Run[Any], kind: str) -> None:
        super().__init__()
        self._run = run
        self._kind = kind
        self._opens_at = run.started_at + MOMENT_SECONDS
        self._panel: RunPanel | None = None
        self._broken = False
        self._pumped: bool | None = None

    @property
    def idle_seconds(self) -> float | None:
        """How long to wait for something to draw."""
        if self._broken:
            return None
        if self._panel is None:
            return max(0.0, self._opens_at - time.monotonic())
        return _PUMP_SECONDS if self._pumped else None

    def draw(self, batch: Batch) -> None:
        """Draw what has arrived, in the cell or in the panel."""
        is_time = self._panel is None and not self._broken and time.monotonic() >= self._opens_at
        if is_time and self._run.state == "running":
            self._open()
        if self._panel is None:
            super().draw(batch)
            return
        super().draw(Batch([item for item in batch.items if not isinstance(item, str)]))
        if self._pumped:
            self._panel.pump()

    def _open(self) -> None:
        with interrupts_held():  # packages are imported that must not be left half imported
            self._write(self._flood.rest())
            try:
                panel = make_panel(self._run, self._kind)
                if panel is not None:
                    panel.open(self._bars_id)
            except Exception as error:  # noqa: BLE001 - the run goes on, and so does what shows it
                panel = None
                sys.stdout.write(f"notebook_accel: the run panel failed: {error!r}; the run goes on without it\n")
            self._panel = panel
            self._broken = panel is None
            self._pumped = panel is not None and clicks().must_be_pumped()

    def finish(self) -> None:
        """Draw what is left, and put what stays of a run that has ended in place."""
        super().finish()
        if self._panel is None or self._run.state == "running":
            return
        with interrupts_held():
            if self._pumped:
                clicks().hand_back()
                self._pumped = False
            self._panel.close()


def clicks() -> Any:
    """Give what lets presses of buttons through."""
    return importlib.import_module("notebook_accel.widgets.clicks").clicks


def show_in_background(run: Run[Any], kind: str) -> None:
    """Let the panel of a run appear in this cell in a moment, while the cell goes on."""
    with interrupts_held():
        panel = make_panel(run, kind)
        if panel is None:
            return
        name = f"notebook_accel-{uuid.uuid4().hex}"
        words = f"notebook_accel: {run.name} runs in the background; run.show() shows it anywhere"
        publish({"text/plain": words}, {}, name, update=False)
        panel.open_later(name, MOMENT_SECONDS)


def show_panel(run: Run[Any], kind: str) -> bool:
    """Show the panel of a run here and now, with what the run has displayed by now; give whether there is one."""
    with interrupts_held():
        panel = make_panel(run, kind)
        if panel is None:
            return False
        panel.open()
        view = CellView()
        view.draw(Batch([item for item in run.take_from_screen().items if not isinstance(item, str)]))
        view.finish()
    return True


def summary_of(run: Run[Any]) -> str | None:
    """Say of an ended run what a panel would have shown and lines have not; None where that is nothing.

    A run that takes no longer than a moment, or logs nothing, needs no words.
    """
    if environment.ui() == "off" or time.monotonic() - run.started_at < MOMENT_SECONDS:
        return None
    if not any(of_rank.logged for of_rank in run.rank_facts()):
        return None
    try:
        return str(importlib.import_module("notebook_accel.widgets.panel").summary(run))
    except ImportError:
        return None
