"""The run panel: a thread that looks at a run a few times a second and draws what it sees."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from contextlib import suppress
from typing import Any

from notebook_accel.launch.bell import Flag
from notebook_accel.launch.run import Run

from .clicks import clicks
from .collector import Collector, begun
from .drawing import still_html, still_text, summary_text
from .events import Event, Measured, Pressed, StacksCame
from .readings import RankReadings
from .state import reduce
from .surfaces import HtmlSurface, Surface, WidgetSurface

_READINGS_SECONDS = 1.0
_JOIN_SECONDS = 5.0
_PANELS_OF_ENDED_RUNS = 2  # whose widgets stay in the kernel, for pages that show them still


class Panel:
    """Shows one run, from when it is opened until the run has ended; then what stays of it takes its place.

    Args:
        run: the run.
        ui: "widgets" or "html".
    """

    def __init__(self, run: Run[Any], ui: str) -> None:
        self._run = run
        self._ui = ui
        self._collector = Collector(run, time.monotonic)
        self._readings = RankReadings(run.plan.devices)
        self._read_at = 0.0
        self._state = begun(run)
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._wake = Flag()
        self._drawing = threading.RLock()
        self._surface: Surface | None = None
        self._thread: threading.Thread | None = None

    @property
    def surface(self) -> Surface | None:
        """Where it is seen; None before it is opened."""
        return self._surface

    def open(self, name: str = "") -> None:
        """Show the panel here, once more if it is shown already; once the run has ended, what stays of it.

        Args:
            name: of a display that gives way to it; a new one if left out.
        """
        with self._drawing:
            self._look()
            if self._state.ended:
                still = HtmlSurface()
                still.place(self._state, name)
                still.replace_with(self.still())
                return
            if self._surface is None:
                self._surface = self._make_surface()
            self._surface.place(self._state, name)
            if self._thread is None:
                self._start()

    def open_later(self, name: str, after_seconds: float) -> None:
        """Let the panel take the place of a display after a while, unless the run has ended by then.

        Args:
            name: of the display.
            after_seconds: how long to wait.
        """
        self._start(name, after_seconds)

    def _make_surface(self) -> Surface:
        if self._ui == "html":
            return HtmlSurface()
        shelf.make_room()
        return WidgetSurface(self._state, self._tell)

    def _start(self, name: str = "", after_seconds: float = 0.0) -> None:
        self._run.when_ended(self._wake.set)
        # In the context of the cell that shows it, or what it sends would belong to whichever cell comes next.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run,
            args=(self._follow, name, after_seconds),
            name="notebook_accel-panel",
            daemon=True,
        )
        self._thread.start()

    def _tell(self, event: Event) -> None:
        self._told.put(event)
        self._wake.set()

    def _follow(self, name: str, after_seconds: float) -> None:
        """Draw until the run has ended; whatever goes wrong here costs the run nothing."""
        try:
            if name:
                self._run.wait_for_end(after_seconds)
                self.open(name)
            while self._surface is not None and not self._state.ended:
                self._wake.wait(self._surface.interval_seconds)
                self._wake.clear()
                with self._drawing:
                    self._look()
                    if not self._state.ended:
                        self._surface.draw(self._state)
        finally:
            self._settle()

    def _look(self) -> None:
        """Take in what has happened, and do what was asked for."""
        while True:
            try:
                event = self._told.get_nowait()
            except queue.Empty:
                break
            self._state = reduce(self._state, event)
            if isinstance(event, Pressed):
                self._do(event)
        if self._state.ended:
            return
        for event in self._collector.look():
            self._state = reduce(self._state, event)
        now = time.monotonic()
        if now - self._read_at >= _READINGS_SECONDS and not self._state.ended:
            self._read_at = now
            self._state = reduce(self._state, Measured(self._readings.take(self._collector.pids())))

    def _do(self, event: Pressed) -> None:
        if event.control == "stop":
            if self._state.stopping <= 1:
                self._run.interrupt()
            else:
                self._run.kill()
        elif event.control == "stacks":
            asking = threading.Thread(target=self._ask_for_stacks, name="notebook_accel-stacks", daemon=True)
            asking.start()

    def _ask_for_stacks(self) -> None:
        self._tell(StacksCame(self._run.stacks()))

    def _settle(self) -> None:
        """Put what stays of the run where the panel was."""
        with self._drawing, suppress(Exception):  # the page is gone, or the kernel ends
            surface = self._surface
            if surface is None:
                return
            self._look()
            surface.replace_with(self.still())
            surface.end()
            if self._state.ended:
                surface.draw(self._state)  # for a page that was loaded anew and does not know the place
            shelf.keep(surface)

    def close(self) -> None:
        """Wait until what stays of the ended run has been put in place."""
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)
        if not self._state.ended:  # the thread has failed
            self._settle()

    def still(self) -> dict[str, Any]:
        """Give what stays of the run: HTML and text, no widget."""
        return {"text/html": still_html(self._state), "text/plain": still_text(self._state)}

    def pump(self) -> None:
        """Look for presses of buttons, where the kernel cannot while the cell waits."""
        clicks.pump()


class Shelf:
    """Surfaces of runs that have ended: the last ones' widgets stay in the kernel, those before are closed."""

    def __init__(self) -> None:
        self._ended: list[Surface] = []
        self._lock = threading.Lock()

    def keep(self, surface: Surface) -> None:
        """Take a surface of a run that has ended."""
        with self._lock:
            self._ended.append(surface)

    def make_room(self) -> None:
        """Close those of long ago."""
        with self._lock:
            old, self._ended = self._ended[:-_PANELS_OF_ENDED_RUNS], self._ended[-_PANELS_OF_ENDED_RUNS:]
        for surface in old:
            with suppress(Exception):  # somebody has closed all widgets
                surface.close()


shelf = Shelf()


def summary(run: Run[Any]) -> str:
    """Say in lines of text what a panel of an ended run shows beside the output."""
    state = begun(run)
    for event in Collector(run, time.monotonic).look():
        state = reduce(state, event)
    return summary_text(state)
