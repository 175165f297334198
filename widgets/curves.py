"""The course of a metric: kept in a bounded number of points however long a run is, and smoothed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MOST_POINTS = 256  # twice what is kept after two neighbours have become one
_SPARKS = "▁▂▃▄▅▆▇█"
_SMOOTHING = 0.7  # weight of what came before; none of it where there are few points
_FEW_POINTS = 10
_NOISE = 1e-9  # of a mean of equal values
_LARGEST = 1e300  # sums and differences of such are numbers still

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """What one rank has logged under one name.

    Attributes:
        points: step and mean value of each ``stride`` values in a row.
        stride: how many values make a point.
        held: values that do not make a point yet.
        held_at: the step of the last of them.
        count: how many values there were.
        first: the first value.
        last: the last value.
        last_at: its step.
        low: the least value.
        high: the greatest value.
        odd: how many were infinite, or nearly so, or no numbers; they are not drawn.

    Example:
        >>> extended(Curve(), [(0.0, 4.0), (1.0, 2.0)]).points
        ((0.0, 4.0), (1.0, 2.0))
    """

    points: tuple[Point, ...] = ()
    stride: int = 1
    held: tuple[float, ...] = ()
    held_at: float = 0.0
    count: int = 0
    first: float = math.nan
    last: float = math.nan
    last_at: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    odd: int = 0

    def drawn_points(self) -> tuple[Point, ...]:
        """Give all points, with one for the values that have not made theirs."""
        if not self.held:
            return self.points
        return (*self.points, (self.held_at, sum(self.held) / len(self.held)))


def extended(curve: Curve, values: Iterable[Point]) -> Curve:
    """Give the curve with further values.

    Args:
        curve: the course so far.
        values: step and value, in their order.
    """
    points, stride, held, held_at = list(curve.points), curve.stride, list(curve.held), curve.held_at
    count, first, last, last_at, odd = curve.count, curve.first, curve.last, curve.last_at, curve.odd
    low, high = curve.low, curve.high
    for step, value in values:
        if not abs(value) <= _LARGEST:  # also of no number
            odd += 1
            continue
        first = value if count == 0 else first
        last, last_at, low, high = value, step, min(low, value), max(high, value)
        count += 1
        held.append(value)
        held_at = step
        if len(held) >= stride:
            points.append((step, sum(held) / len(held)))
            held = []
            if len(points) >= _MOST_POINTS:
                points, stride = _halved(points), stride * 2
    return Curve(tuple(points), stride, tuple(held), held_at, count, first, last, last_at, low, high, odd)


def _halved(points: Sequence[Point]) -> list[Point]:
    pairs = zip(points[::2], points[1::2], strict=False)
    return [(later[0], (earlier[1] + later[1]) / 2) for earlier, later in pairs]


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Give at most so many points: means of neighbours."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = (points[begin : begin + size] for begin in range(0, len(points), size))
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Give the points with each value drawn towards those before it; few points as they are."""
    if len(points) < _FEW_POINTS:
        return list(points)
    found, mean, weight = [], 0.0, 0.0
    for step, value in points:
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)  # of the values so far: the first ones count in full
        found.append((step, mean / weight))
    return found


def sparkline(curve: Curve, width: int = 24) -> str:
    """Draw a curve in a line of characters.

    Example:
        >>> sparkline(extended(Curve(), [(0, 3.0), (1, 2.0), (2, 1.0)]))
        '█▄▁'
    """
    points = thinned(curve.drawn_points(), width)
    if not points:
        return ""
    low, high = min(value for _, value in points), max(value for _, value in points)
    height = high - low
    if height <= _NOISE * max(abs(low), abs(high)):
        return _SPARKS[0] * len(points)
    return "".join(_SPARKS[int((value - low) / height * (len(_SPARKS) - 1))] for _, value in points)


def number(value: float) -> str:
    """Write a number in few characters.

    Example:
        >>> [number(value) for value in (0.123456, 1234567.0, 3.0, 1e-7)]
        ['0.1235', '1.235e+06', '3', '1e-07']
    """
    return f"{value:.4g}"
