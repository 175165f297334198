"""What a panel knows after any order of events: bounded, complete at both ends, and never an error."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_accel.launch.bars import Row
from notebook_accel.launch.metrics import Entry
from notebook_accel.widgets.drawing import curves_html, output_html, overview_html, status_html, still_html, still_text
from notebook_accel.widgets.events import (
    BarMoved,
    BarsDrawn,
    Chosen,
    DisplaysWait,
    Ended,
    Event,
    LoggedMany,
    Measured,
    Pressed,
    Printed,
    RankEnded,
    Reading,
    Restarted,
    StacksCame,
    Ticked,
)
from notebook_accel.widgets.state import KEPT_LINES, PanelState, RankState, reduce
from notebook_accel.wire.events import Progress

RANKS = 2


def begun(ranks: int = RANKS) -> PanelState:
    labels = ["", *(f"[rank {rank}] " for rank in range(1, ranks))]
    return PanelState("train", f"{ranks} CPU processes", tuple(RankState(label, "CPU") for label in labels))


def after(*events: Event, state: PanelState | None = None) -> PanelState:
    state = begun() if state is None else state
    for event in events:
        state = reduce(state, event)
    return state


def bar(rank: int, done: float, total: float | None = 10, number: int = 0) -> BarMoved:
    return BarMoved(rank, Progress(rank, number, "steps", "", done, total))


def logged(rank: int, *values: Any, first: int = 0, name: str = "loss") -> LoggedMany:
    return LoggedMany(rank, [Entry(rank, {name: value}, None) for value in values], first)


# ---- any order of events

texts = st.text(st.sampled_from("ab<>&\"'\r\n\x1b[31m\x07ü"), max_size=12)
ranks = st.integers(0, RANKS - 1)
numbers = st.one_of(st.floats(), st.integers(-5, 5))
events = st.one_of(
    st.builds(Printed, ranks, texts),
    st.builds(lambda rank, values: logged(rank, *values), ranks, st.lists(numbers, max_size=5)),
    st.builds(bar, ranks, st.floats(0, 1e9), st.one_of(st.none(), st.floats(0, 1e9)), st.integers(0, 3)),
    st.builds(lambda label: BarsDrawn((Row(label, "", 0.5, False),)), texts),
    st.builds(lambda rank, busy: Measured({rank: Reading(busy, 1 << 20)}), ranks, st.floats(0, 100)),
    st.builds(RankEnded, ranks, texts),
    st.builds(Ticked, st.floats(0, 1e6)),
    st.builds(Pressed, st.sampled_from(["stop", "stacks", "pause", "log scale"])),
    st.builds(Chosen, st.one_of(st.none(), ranks)),
    st.builds(lambda text: StacksCame({0: text}), texts),
    st.just(Restarted()),
    st.builds(DisplaysWait, st.integers(0, 3)),
    st.builds(lambda state, text: Ended(state, 1.0, (text,), (text,)), st.sampled_from(["succeeded", "failed"]), texts),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(events, max_size=30))
def test_any_order_of_events_can_be_drawn(happened: list[Event]):
    state = after(*happened)
    for draw in (status_html, overview_html, curves_html, output_html, still_html, still_text):
        assert isinstance(draw(state), str)
    assert len(state.lines) <= KEPT_LINES
    assert "\x1b[31m" not in output_html(state)


# ---- output


def test_lines_of_all_ranks_are_kept_to_a_bound():
    state = begun()
    for number in range(1000):
        state = after(Printed(number % 2, f"line {number}\n" * 3), state=state)
    assert len(state.lines) == len(state.ranks[0].lines) == KEPT_LINES
    assert state.lines[-1] == "[rank 1] line 999"
    assert state.ranks[0].lines[-1] == "line 998"


def test_a_line_is_shown_before_it_has_ended():
    state = after(Printed(0, "half"), Printed(1, "other\n"), Printed(0, " a line"), Chosen(0))
    assert state.output_lines() == ("half a line",)
    assert state.ranks[0].last_line == "half a line"
    assert after(Printed(0, "\nnext\n"), state=state).output_lines() == ("half a line", "next")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10%\r20%\rdone\n", "done"),
        ("\x1b[31mred\x1b[0m\n", "red"),
        ("a\r\n", "a"),
        ("x" * 900 + "\n", "x" * 400 + "…"),
    ],
)
def test_what_a_terminal_would_show_is_shown(text: str, shown: str):
    assert after(Printed(0, text)).ranks[0].lines == (shown,)


def test_paused_output_stays_until_it_is_followed_again():
    state = after(Printed(0, "one\n"), Pressed("pause"), Printed(0, "two\n"))
    assert state.output_lines() == ("one",)
    assert after(Chosen(0), state=state).output_lines() == ("one", "two")
    assert after(Pressed("pause"), state=state).output_lines() == ("one", "two")
    assert after(Ended("succeeded", 1.0), state=state).output_lines() == ("one", "two")


# ---- how far the ranks are


def test_units_go_on_from_bar_to_bar():
    state = after(bar(0, 3), bar(0, 10), bar(0, 2, number=1), bar(0, 5, number=1))
    assert state.ranks[0].units == 15
    assert state.ranks[0].part == 0.5
    assert state.ranks[1].part is None


def test_a_rate_is_found_about_once_a_second():
    state = after(logged(0, 1.0), Ticked(1.0))
    for second in range(2, 12):
        state = after(logged(0, *[1.0] * 5, first=5 * second), Ticked(second), state=state)
    assert state.ranks[0].rate == pytest.approx(5.0, rel=0.3)
    assert state.ranks[1].rate is None


def test_a_rank_that_ended_uses_nothing():
    state = after(Measured({0: Reading(99.0, 5)}), RankEnded(0, "exit code 1"))
    assert (state.ranks[0].reading, state.ranks[0].ended) == (Reading(), "exit code 1")


# ---- what is logged


def test_metrics_are_kept_by_name_and_rank():
    state = after(logged(1, 3.0, 2.0), logged(0, 4.0), logged(0, "words", None), logged(0, 7.0, name="rate"))
    assert list(state.curves) == ["loss", "rate"]
    assert list(state.curves["loss"]) == [0, 1]
    assert state.curves["loss"][1].points == ((0.0, 3.0), (1.0, 2.0))


def test_what_has_no_room_is_said():
    state = after(*(logged(0, 1.0, name=f"metric {number}") for number in range(15)))
    assert len(state.curves) == 12
    assert state.left_out == ("metric 12", "metric 13", "metric 14")
    assert "not drawn: metric 12, metric 13, metric 14; result.metrics has all" in curves_html(state)


def test_infinite_values_and_no_numbers_are_counted():
    curve = after(logged(0, 1.0, math.nan, math.inf, 2.0)).curves["loss"][0]
    assert (curve.count, curve.odd, curve.low, curve.high) == (2, 2, 1.0, 2.0)


# ---- ends


def test_stop_is_counted_while_the_run_goes_on():
    state = after(Pressed("stop"), Pressed("stop"))
    assert state.stopping == 2
    assert "stopping" in status_html(state)
    ended = after(Ended("interrupted", 2.0), Pressed("stop"), state=state)
    assert ended.stopping == 2
    assert "interrupted" in status_html(ended)


def test_a_restart_begins_anew_and_keeps_what_was_printed():
    state = after(Printed(0, "first\n"), logged(0, 1.0), bar(0, 5), StacksCame({0: "here"}), Restarted())
    assert state.lines == ("first", "(started again)")
    assert (state.ranks[0].step, state.ranks[0].bar, state.bars, state.stacks) == (None, None, (), {})
    assert state.curves["loss"][0].count == 1


def test_what_stays_has_the_failure_with_its_line():
    failure = ("rank 1 of 2 failed first: ValueError: <no> labels", "Cell In[3], line 5, in fail: raise")
    state = after(Printed(0, "<script>alert(1)</script>\n"), logged(0, 2.0, 1.0), Ended("failed", 61.0, failure))
    html, text = still_html(state), still_text(state)
    assert "ValueError: &lt;no&gt; labels" in html
    assert "Cell In[3], line 5, in fail" in html
    assert "<script" not in html
    assert "train failed after 1 min 1 s" in text
    assert "Cell In[3], line 5, in fail: raise" in text
    assert "loss: █▁ 2 → 1" in text
