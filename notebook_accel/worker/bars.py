"""tqdm's bars, sent as data instead of being drawn: the notebook draws them.

tqdm's own drawing methods are replaced in this process, so that bars inside libraries are sent too. Bars on a file of
the user's own are drawn there as ever, and so is every bar in a process that the rank has forked.
"""

from __future__ import annotations

import itertools
import sys
from types import ModuleType
from typing import Any

from notebook_accel.wire.events import Progress
from notebook_accel.worker.imports import Action
from notebook_accel.worker.relay import Relay

_NUMBER = "_notebook_accel_number"
# What a notebook's own bar does differently: without that it is a plain one.
_OF_NOTEBOOKS = (
    "__init__",
    "__iter__",
    "clear",
    "close",
    "colour",
    "display",
    "reset",
    "status_printer",
    "update",
)


def actions(relay: Relay, rank: int) -> dict[str, Action]:
    """Give what to do with tqdm's modules when they have been imported."""
    return {"tqdm.std": _Sender(relay, rank).take_over, "tqdm.notebook": _make_plain}


def _make_plain(module: ModuleType) -> None:
    for name in _OF_NOTEBOOKS:
        if name in vars(module.tqdm_notebook):
            delattr(module.tqdm_notebook, name)


class _Nowhere:
    """A file that takes anything."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def _draw_nothing(*_: object, **__: object) -> bool:
    return True


class _Sender:
    """Sends what the bars of this process would draw."""

    def __init__(self, relay: Relay, rank: int) -> None:
        self._relay = relay
        self._rank = rank
        self._numbers = itertools.count()

    def take_over(self, module: ModuleType) -> None:
        """Replace the methods of tqdm's class that draw."""
        cls: Any = module.tqdm
        draw, close, clear = cls.display, cls.close, cls.clear

        def display(bar: Any, msg: str | None = None, pos: int | None = None) -> Any:
            if not self._is_ours(bar):
                return draw(bar, msg, pos)
            if msg is None:
                self._send(bar)
            return True

        def close_sent(bar: Any) -> None:
            if getattr(bar, "disable", True) or not self._is_ours(bar):
                close(bar)
                return
            stays = bar.pos == 0 if bar.leave is None else bool(bar.leave)
            file, bar.fp, bar.display = bar.fp, _Nowhere(), _draw_nothing
            try:
                close(bar)
            finally:
                bar.fp = file
                del bar.display
            if _NUMBER in vars(bar):
                self._send(bar, closed=True, stays=stays)

        def clear_sent(bar: Any, *args: Any, **kwargs: Any) -> None:
            if not self._is_ours(bar):
                clear(bar, *args, **kwargs)

        cls.display, cls.close, cls.clear = display, close_sent, clear_sent

    def _is_ours(self, bar: Any) -> bool:
        file = getattr(bar, "fp", None)
        file = getattr(file, "_wrapped", file)
        return self._relay.is_open and file in (sys.stderr, sys.stdout)

    def _send(self, bar: Any, *, closed: bool = False, stays: bool = True) -> None:
        label, facts = _texts(bar)
        number = vars(bar).setdefault(_NUMBER, -1)
        if number < 0:
            number = vars(bar)[_NUMBER] = next(self._numbers)
        self._relay.send(Progress(self._rank, number, label, facts, bar.n, bar.total, closed, stays))


def _texts(bar: Any) -> tuple[str, str]:
    """Give what stands before and behind the bar; the part that is done is for whoever draws it to say."""
    facts = dict(bar.format_dict, ncols=None)
    if facts["bar_format"]:
        facts["bar_format"] = facts["bar_format"].replace("{bar}", "<bar/>")
        before, _, behind = bar.format_meter(**facts).partition("<bar/>")
        return before.rstrip("|").strip(), behind.lstrip("|").strip()
    label = (facts.pop("prefix") or "").removesuffix(": ")
    if facts["total"]:
        facts["bar_format"] = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    return label, bar.format_meter(**facts).strip()
