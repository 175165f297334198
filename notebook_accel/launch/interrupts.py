"""Interrupts of the cell: kept from falling into the middle of something, and shown with where the ranks were."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from notebook_accel.errors import RunInterrupted, place_lines


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let an interrupt of the block take effect at its end; for short blocks. Threads get none anyway."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    held: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *arguments: held.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if held:
            usual(*held[0])


class CellInterrupted(KeyboardInterrupt):
    """The KeyboardInterrupt of a cell whose run was interrupted. Elsewhere, and to whoever looks, a plain one.

    Args:
        error: what the run ended with.

    Attributes:
        places: where each rank was, in words, by rank.
        result: the ``RunResult`` with what the ranks had returned and printed by then.
    """

    def __init__(self, error: RunInterrupted) -> None:
        super().__init__("\n".join([error.what, *place_lines(error.places)]))
        self.places = error.places
        self.result = error.result

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the run's result, which holds files of this process."""
        return KeyboardInterrupt, self.args

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of the launcher's own frames."""
        return f"{type(self).__name__}: {self}".splitlines()


for _name in ("__name__", "__qualname__"):
    setattr(CellInterrupted, _name, "KeyboardInterrupt")
CellInterrupted.__module__ = "builtins"  # a traceback then says "KeyboardInterrupt: ...", as front ends expect
