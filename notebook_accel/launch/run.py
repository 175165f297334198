"""A run that has been started: what it can be asked and told, whoever started it."""

from __future__ import annotations

import asyncio
import html
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar

from notebook_accel.config import RunConfig
from notebook_accel.errors import AccelError, RunHung, RunInterrupted, RunTimedOut
from notebook_accel.launch.bars import Row
from notebook_accel.launch.bell import Flag
from notebook_accel.launch.panelled import RunPanel, panel_kind, show_panel
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.rank_facts import RankFacts
from notebook_accel.launch.result import RunResult
from notebook_accel.launch.screen import Batch, Screen
from notebook_accel.launch.view import View, view_here

R = TypeVar("R")
RunState = Literal["running", "succeeded", "failed", "interrupted", "timed out", "hung"]

_STOP_SECONDS = 6.0  # the ranks' own grace, and what it takes to end them
_KILL_SECONDS = 3.0
_TICK_SECONDS = 0.2  # a Jupyter kernel's loop takes an interrupt only when something wakes it


class Run(ABC, Generic[R]):
    """A run in the background, or one that has ended.

    ``notebook_launcher(..., block=False)`` gives one; ``await run`` in a cell is ``run.result()`` without blocking the
    kernel. Ranks of a background run end when they are done, when they are stopped, and with the kernel.

    Attributes:
        plan: what was decided before it started.
        name: the function's name.
        started_at: when it was started, on the monotonic clock.
        start_notices: what the user should know about its start.
        panel: what shows it live in a notebook, None where nothing does.

    Example:
        >>> from notebook_accel import notebook_launcher
        >>> run = notebook_launcher(max, args=(1, 2), num_processes=1, block=False)
        notebook_accel: 1 CPU process
        >>> run.result().value
        2
        >>> run.state
        'succeeded'
    """

    def __init__(self, plan: LaunchPlan, name: str, screen: Screen, started_at: float) -> None:
        self.plan = plan
        self.name = name
        self.started_at = started_at
        self.start_notices: list[str] = []
        self.panel: RunPanel | None = None
        self._screen = screen
        self._error: AccelError | None = None
        self._ended = Flag()
        self._ending = threading.Lock()
        self._on_end: list[Callable[[], None]] = []

    @property
    def config(self) -> RunConfig:
        """What was asked for."""
        return self.plan.config

    @property
    def state(self) -> RunState:
        """How the run stands."""
        if not self._ended.is_set():
            return "running"
        if isinstance(self._error, RunInterrupted):
            return "interrupted"
        if isinstance(self._error, RunHung):
            return "hung"
        if isinstance(self._error, RunTimedOut):
            return "timed out"
        return "failed" if self._error is not None else "succeeded"

    @abstractmethod
    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for the end, at most so long; give whether it has come."""

    @abstractmethod
    def result(self) -> RunResult[R]:
        """Wait for the end and give what the ranks returned.

        Raises:
            RankFailed: the function failed on a rank, or a rank was killed.
            RunInterrupted: the run was stopped before the function had returned on every rank.
            RunTimedOut: the run had taken its ``timeout_seconds``.
            RunHung: it hung for its ``hang_timeout_seconds``, and ``hang_action="stop"``.
            LaunchError: the machinery failed.
        """

    @abstractmethod
    def logs(self, rank: int = 0) -> str:
        """Give everything that rank ``rank`` has printed so far.

        Raises:
            IndexError: there is no such rank.
        """

    @abstractmethod
    def rank_facts(self) -> list[RankFacts]:
        """Say what is known of each rank by now, for whoever shows it."""

    @property
    def hang(self) -> str | None:
        """The last report of a hang: which ranks wait where, and which is elsewhere; None where none was seen."""
        return None

    def stacks(self, timeout_seconds: float = 2.0) -> dict[int, str]:  # noqa: ARG002 - for runs that have processes
        """Say where each rank is right now, every thread of it, also while native code runs or holds the GIL.

        Any thread may ask, several at once. Ranks whose process has ended are left out; there are none once the run
        has ended. To be asked may cut short a wait in native code that does not go on after a signal, C's ``sleep`` for
        example; Python's own waits, torch's and NumPy's go on.

        Args:
            timeout_seconds: how long to wait for the answer. A rank that does not answer (its process was stopped, or
                it is still starting) is there with words that say so.

        Returns:
            The main thread's stack and then those of the others, as in a traceback, by rank.

        Example:
            >>> from notebook_accel import notebook_launcher
            >>> run = notebook_launcher(max, args=(1, 2), num_processes=1, block=False)
            notebook_accel: 1 CPU process
            >>> run.wait()
            True
            >>> run.stacks()
            {}
        """
        return {}

    def batches(self) -> Iterator[Batch]:
        """Give what the ranks print and show as it arrives, until every rank has ended. For one consumer."""
        while not self._ended.is_set():
            self._screen.wait()
            batch = self._screen.take()
            if batch:
                yield batch
        batch = self._screen.take()
        if batch:
            yield batch

    def output(self) -> Iterator[str]:
        """Give the text of what arrives, until every rank has ended. For one consumer."""
        return (batch.text for batch in self.batches() if batch.items)

    @abstractmethod
    def notices(self) -> list[str]:
        """Say what went wrong without making the ended run fail."""

    @abstractmethod
    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in every rank and return at once.

        A rank that waits for another is woken for it; one that is in other native code is ended after about a second,
        and one that goes on all the same after 5 seconds.
        """

    @abstractmethod
    def request_stop(self) -> None:
        """Ask the function to end by itself: ``accelerator.should_stop`` becomes True on every rank.

        Nothing is interrupted: a function that never looks goes on, and one that returns has succeeded.

        Example:
            >>> from notebook_accel import Accelerator, notebook_launcher
            >>> def count():
            ...     accelerator = Accelerator()
            ...     while not accelerator.should_stop:
            ...         pass  # a step of training
            ...     return "ended by itself"
            >>> run = notebook_launcher(count, num_processes=2, block=False)
            notebook_accel: 2 CPU processes, gloo
            >>> run.request_stop()
            >>> run.result().value
            'ended by itself'
        """

    @abstractmethod
    def kill(self) -> None:
        """End every rank now."""

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the run has ended, from whatever thread notices; at once if it has."""
        with self._ending:
            if not self._ended.is_set():
                self._on_end.append(callback)
                return
        callback()

    def _finish(self) -> None:
        """Let everybody know that the run has ended."""
        with self._ending:
            self._ended.set()
        self._screen.nudge()
        for callback in self._on_end:
            with suppress(Exception):  # one that fails must not cost the others their turn
                callback()

    def stop(self) -> None:
        """Interrupt the run and wait until every rank has ended, which takes about 6 seconds at most."""
        self.interrupt()
        if not self.wait(_STOP_SECONDS):
            self.kill()
            if not self.wait(_KILL_SECONDS):
                self.kill()  # gives it up
                self.wait()

    def show(self) -> None:
        """Show the run here: in a notebook its panel, at once; elsewhere what the ranks print until the run ends.

        A panel shows a run that has ended as well, and figures and other displays that nobody has shown yet. Where
        there is none, an interrupt stops only the printing.
        """
        kind = panel_kind()
        if kind is not None and show_panel(self, kind):
            return
        try:
            self.show_into(view_here())
        except KeyboardInterrupt:
            sys.stdout.write(f"notebook_accel: {self.name} goes on; .stop() ends it, .show() shows more\n")
            return
        ended = [] if self.state == "succeeded" else [f"{self.name} {self.state}; .result() says why"]
        for notice in [*ended, *self.notices()]:
            sys.stdout.write(f"notebook_accel: {notice}\n")

    def show_into(self, view: View) -> None:
        """Let ``view`` draw what arrives until the run ends, a few times a second."""
        try:
            while not self._ended.is_set():
                self._screen.wait(view.idle_seconds)
                view.draw_from(self._screen)
                self._ended.wait(view.pause_seconds)
            view.draw_from(self._screen)
        finally:
            view.finish()

    def wait_for_end(self, timeout_seconds: float) -> bool:
        """Wait for the end without taking part in it, in any thread; give whether it has come."""
        return self._ended.wait(timeout_seconds)

    def look_at_screen(self) -> tuple[tuple[Row, ...], int]:
        """Give the progress bars as they are, and how many displays wait for ``show``."""
        return self._screen.look()

    def take_from_screen(self) -> Batch:
        """Give what waits to be shown, which waits no more then."""
        return self._screen.take()

    def __await__(self) -> Generator[Any, None, RunResult[R]]:
        """Let other code of the event loop run until this has ended; then give the result or raise, as ``result``."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell_loop() -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(wake)

        def tick() -> None:
            if not ended.done():
                loop.call_later(_TICK_SECONDS, tick)

        self.when_ended(tell_loop)
        tick()
        yield from ended
        return self.result()

    def __repr__(self) -> str:
        """Say what it is and how it stands."""
        age = f" for {time.monotonic() - self.started_at:.1f} s" if self.state == "running" else ""
        return f"Run({self.name}: {self.plan}, {self.state}{age})"

    def _repr_html_(self) -> str:
        """Say the same in the notebook."""
        return f"<code>{html.escape(repr(self))}</code>"
