from __future__ import annotations

import io
import signal
from contextlib import redirect_stderr, redirect_stdout

import pytest

from notebook_accel.launch import view
from notebook_accel.launch.bars import Row
from notebook_accel.launch.screen import Batch, Rich, Screen, Source
from notebook_accel.launch.view import Flood, TextView
from notebook_accel.wire.events import Displayed


def test_what_is_little_is_shown_at_once():
    flood = Flood()
    assert [flood.cut("one\n"), flood.cut("two"), flood.rest()] == ["one\n", "two", ""]


def test_a_flood_is_folded_to_its_last_lines():
    flood = Flood()
    lines = [f"line {number}\n" for number in range(100_000)]
    shown = "".join(flood.cut("".join(lines[start : start + 1000])) for start in range(0, 100_000, 1000))
    rest = flood.rest()
    head, _, tail = rest.partition("\n")
    assert shown == "".join(lines)[: len(shown)], "what comes first is shown whole"
    assert 0 < len(shown) <= 2 * view._BURST_CHARACTERS
    folded = int(head.split()[1].replace(",", ""))
    assert head == f"notebook_accel: {folded:,} characters folded; .logs(rank) has them"
    assert "".join(lines).endswith(tail)
    assert tail.startswith("line ")
    assert len(shown) + folded + len(tail) == len("".join(lines)), "every character is shown or counted"
    assert flood.rest() == ""


def test_one_endless_line_is_folded_too():
    flood = Flood()
    assert flood.cut("x" * (1 << 20)) == ""
    assert flood.cut("x" * (1 << 20)) == ""
    assert flood.rest().endswith("\n" + "x" * view._TAIL_CHARACTERS)


def test_a_terminal_gets_displays_in_words_and_the_bars_that_have_ended():
    drawn = TextView()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        ended, moving = Row("a", "", 1.0, ended=True), Row("b", "", 0.5, ended=False)
        drawn.draw(Batch(["text\n", Rich(Source(label="[1] "), Displayed(1, {"text/plain": "a table"}))], [moving]))
        drawn.draw(Batch([], [ended, moving]))
        drawn.draw(Batch([], [ended, moving]))
        drawn.finish()
    assert out.getvalue() == "text\n[1] a table\n"
    assert err.getvalue() == "a: 100%|████████████████████| \n"


class InterruptedView(TextView):
    """The user presses stop while it draws."""

    def _draw_rich(self, rich: Rich) -> None:
        signal.raise_signal(signal.SIGINT)
        super()._draw_rich(rich)


def test_an_interrupt_waits_until_all_that_was_taken_has_been_drawn():
    screen, out = Screen(), io.StringIO()
    screen.put("before\n")
    screen.put_rich(Displayed(0, {"text/plain": "a table"}), Source())
    screen.put("after\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with redirect_stdout(out), pytest.raises(KeyboardInterrupt):
            InterruptedView().draw_from(screen)
    finally:
        signal.signal(signal.SIGINT, before)
    assert out.getvalue() == "before\na table\nafter\n"
