"""Where a run panel is seen: core widgets with buttons, or HTML that is drawn anew."""

from __future__ import annotations

import functools
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from notebook_accel.launch.view import publish

from .clicks import clicks
from .closing import close_all
from .drawing import curves_html, output_html, overview_html, stacks_html, status_html
from .events import Chosen, Event, Pressed
from .state import PanelState
from .traffic import Budget

_CURVES_SECONDS = 1.0
_PARTS = ("status", "overview", "curves", "output", "stacks")


class Surface(ABC):
    """Shows states in one or several places of a notebook; one thread at a time may use it.

    Attributes:
        interval_seconds: from one drawing to the next.
        budget: how much is sent.
    """

    interval_seconds = 0.25

    def __init__(self) -> None:
        self.budget = Budget(time.monotonic())
        self._places: list[str] = []
        self._shown: dict[str, str] = dict.fromkeys(_PARTS, "")
        self._curves_at = 0.0
        self._log_scale = False

    def place(self, state: PanelState, name: str = "") -> None:
        """Show the panel in one more place.

        Args:
            state: what it shows.
            name: of a display that the panel replaces; a new one if left out.
        """
        update = bool(name)
        name = name or f"notebook_accel-{uuid.uuid4().hex}"
        self.draw(state)
        publish(self._bundle(), {}, name, update=update)
        self._places.append(name)

    def draw(self, state: PanelState) -> None:
        """Send what has changed, as far as that is not too much."""
        changed = {part: drawn for part, drawn in self._drawn(state).items() if drawn != self._shown[part]}
        self._send(changed, state)

    def _drawn(self, state: PanelState) -> dict[str, str]:
        now = time.monotonic()
        parts = {"status": status_html(state), "overview": overview_html(state), "stacks": stacks_html(state)}
        is_first = bool(state.curves) and "<svg" not in self._shown["curves"]
        is_due = now - self._curves_at >= _CURVES_SECONDS
        if is_first or is_due or state.log_scale != self._log_scale or state.ended:
            self._curves_at, self._log_scale = now, state.log_scale
            parts["curves"] = curves_html(state)
        return {**parts, "output": output_html(state)}

    def replace_with(self, bundle: Mapping[str, Any]) -> None:
        """Put what stays into every place."""
        for name in self._places:
            publish(bundle, {}, name, update=True)

    @abstractmethod
    def _send(self, changed: Mapping[str, str], state: PanelState) -> None:
        """Send parts, and what belongs to none."""

    @abstractmethod
    def _bundle(self) -> dict[str, Any]:
        """Give the panel as something to display."""

    def end(self) -> None:  # noqa: B027 - there may be nothing to do
        """Let nothing be pressed any more: the run has ended."""

    def close(self) -> None:  # noqa: B027 - there may be nothing to do
        """Let go of what the panel holds in the browser."""


class HtmlSurface(Surface):
    """Draws the whole panel anew; there is nothing to press."""

    interval_seconds = 0.5

    def _send(self, changed: Mapping[str, str], _state: PanelState) -> None:
        if changed and self.budget.allows("".join(({**self._shown, **changed}).values()), time.monotonic()):
            self._shown.update(changed)
            for name in self._places:
                publish(self._bundle(), {}, name, update=True)

    def _bundle(self) -> dict[str, Any]:
        return {"text/html": "".join(self._shown.values()), "text/plain": "(a run that goes on)"}


class WidgetSurface(Surface):
    """Draws with core widgets; its buttons work while the cell runs.

    A front end holds back what is changed in a widget until the kernel has dealt with the change before; it never holds
    back presses of buttons. So everything that can be done here is done with buttons.

    Args:
        state: the run.
        tell: takes what somebody does, in any thread, and does not wait.
    """

    def __init__(self, state: PanelState, tell: Callable[[Event], None]) -> None:
        super().__init__()
        import ipywidgets  # noqa: PLC0415 - only where there is a panel

        self._kit = ipywidgets
        self._tell = tell
        self._listeners: dict[str, Callable[[], None]] = {}
        self._html = {part: ipywidgets.HTML() for part in _PARTS}
        self._stop = self._button("Stop", Pressed("stop"), "Interrupt every rank", "stop", "danger")
        self._stacks = self._button("Stacks", Pressed("stacks"), "Show where each rank is now", "list")
        self._log = self._button("Log scale", Pressed("log scale"), "Draw curves by their logarithm", "line-chart")
        self._pause = self._button("Pause", Pressed("pause"), "Stop following the output", "pause")
        choices: list[int | None] = [None, *range(len(state.ranks))] if len(state.ranks) > 1 else []
        self._choices = {choice: self._choice(choice) for choice in choices}
        self._root = self._arranged()
        clicks.listen(self._listeners)

    def _button(self, label: str, event: Event, tooltip: str, icon: str = "", style: str = "") -> Any:
        button = self._kit.Button(
            description=label,
            tooltip=tooltip,
            icon=icon,
            button_style=style,
            layout=self._kit.Layout(width="auto", height="26px", margin="1px 4px 1px 0"),
        )
        comm = button.comm.comm_id
        self._listeners[comm] = functools.partial(self._tell, event)
        button.on_click(lambda _button: clicks.told(comm))
        return button

    def _choice(self, rank: int | None) -> Any:
        return self._button(_name(rank), Chosen(rank), f"Show the output of {_name(rank)}")

    def _arranged(self) -> Any:
        row = {"flex_flow": "row wrap", "align_items": "center"}
        box, layout = self._kit.Box, self._kit.Layout
        self._curves_row = box([self._log], layout=layout(**row, display="none"))
        column = [
            box([self._html["status"], self._stop, self._stacks], layout=layout(**row, grid_gap="8px")),
            self._html["overview"],
            self._curves_row,
            self._html["curves"],
            box([*self._choices.values(), self._pause], layout=layout(**row)),
            self._html["output"],
            self._html["stacks"],
        ]
        return self._kit.VBox(column, layout=layout(padding="2px 0"))

    def _send(self, changed: Mapping[str, str], state: PanelState) -> None:
        now = time.monotonic()
        for part, drawn in changed.items():
            if self.budget.allows(drawn, now):
                self._shown[part] = drawn
                self._html[part].value = drawn
        # A trait that is set to what it is sends nothing.
        self._stop.description = "Stop now" if state.stopping else "Stop"
        self._curves_row.layout.display = "" if "<svg" in self._shown["curves"] else "none"
        self._log.description = "Linear scale" if state.log_scale else "Log scale"
        self._pause.description = "Pause" if state.paused is None else "Follow"
        self._pause.icon = "pause" if state.paused is None else "play"
        for choice, button in self._choices.items():
            button.button_style = "primary" if choice == state.shown else ""
            button.description = f"▸ {_name(choice)}" if choice == state.shown else _name(choice)

    def _bundle(self) -> dict[str, Any]:
        """Give the view of the widget; some versions of ipywidgets have no public name for it."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self._root.model_id}
        return {"application/vnd.jupyter.widget-view+json": view, "text/plain": "(a run panel)"}

    def end(self) -> None:
        """Let nothing be pressed any more."""
        clicks.forget(list(self._listeners))
        for button in (self._stop, self._stacks, self._log, self._pause, *self._choices.values()):
            button.disabled = True

    def close(self) -> None:
        """Take the widgets out of the kernel, and with it out of every page."""
        close_all(self._root)


def _name(rank: int | None) -> str:
    return "all ranks" if rank is None else f"rank {rank}"
