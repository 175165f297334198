"""Curves stay within their bound and keep what matters of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_accel.widgets.curves import Curve, extended, smoothed, sparkline, thinned

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000)


@settings(deadline=None, max_examples=60)
@given(values, st.integers(1, 7))
def test_curves_are_bounded_and_keep_their_ends(logged: list[float], pieces: int):
    curve = Curve()
    size = -(-len(logged) // pieces)
    points = [(float(step), value) for step, value in enumerate(logged)]
    for begin in range(0, len(points), size):
        curve = extended(curve, points[begin : begin + size])
    assert curve == extended(Curve(), points), "how it came does not matter"
    assert len(curve.drawn_points()) <= 256
    assert (curve.count, curve.first, curve.last) == (len(logged), logged[0], logged[-1])
    assert (curve.low, curve.high, curve.last_at) == (min(logged), max(logged), len(logged) - 1)
    assert curve.drawn_points()[-1][0] == len(logged) - 1


def test_a_hundred_thousand_values_take_no_more_room():
    curve = extended(Curve(), ((float(step), 1.0) for step in range(100_000)))
    assert len(curve.points) < 256
    assert {value for _, value in curve.points} == {1.0}


def test_points_are_thinned_to_means():
    assert thinned([(0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0)], 2) == [(1.0, 1.0), (3.0, 5.0)]
    assert thinned([(0.0, 1.0)], 2) == [(0.0, 1.0)]


def test_few_points_are_not_smoothed_and_many_stay_between_their_values():
    few = [(float(step), float(step % 2)) for step in range(5)]
    assert smoothed(few) == few
    many = smoothed([(float(step), float(step % 2)) for step in range(50)])
    assert all(0 <= value <= 1 for _, value in many)
    assert many[-1][1] == pytest.approx(0.5, abs=0.2)


def test_a_line_of_characters():
    assert sparkline(Curve()) == ""
    assert sparkline(extended(Curve(), [(0, 5.0), (1, 5.0)])) == "▁▁"
    assert len(sparkline(extended(Curve(), ((float(step), float(step)) for step in range(500))))) <= 24
