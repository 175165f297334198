"""Curves as SVG: inline, with the colours of the page, or as a picture that stands for itself."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .curves import Curve, Point, number, smoothed, thinned

_WIDTH, _HEIGHT = 300, 130
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 8, 18
_COLOURS = ("#2b88d8", "#e67e22", "#2e9e5b", "#c0398c", "#7e57c2", "#0097a7", "#b8860b", "#78909c")
_DASHES = ("", "6 3", "2 2", "8 3 2 3")  # ranks are told apart without colours too
_ALL_POINTS = 1600  # of all curves of a panel, so that what is sent stays small
_ALL_BANDS = 120
_FEWEST_POINTS, _MOST_POINTS = 24, 100
_LARGEST_EXPONENT = 300.0


@dataclass(frozen=True)
class Ink:
    """The colours of a chart.

    Attributes:
        text: of numbers and lines.
        font: of numbers.
    """

    text: str = "currentColor"
    font: str = "inherit"


_PAGE = Ink()
_PICTURE = Ink("#808080", "sans-serif")  # to be read on white and on black


@dataclass(frozen=True)
class Frame:
    """Where a value lies in a chart."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, step: float) -> float:
        """Give the place of a step."""
        part = (step - self.low_x) / ((self.high_x - self.low_x) or 1.0)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Give the place of a value."""
        part = (value - self.low_y) / ((self.high_y - self.low_y) or 1.0)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)


def charts_html(curves: Mapping[str, Mapping[int, Curve]], *, log_scale: bool) -> str:
    """Draw all curves into the page, with values under the pointer.

    Args:
        curves: by name, then by rank.
        log_scale: whether values are drawn by their logarithm; those that have none are left out.
    """
    if not curves:
        return ""
    most = _most_points(curves)
    bands = max(6, _ALL_BANDS // len(curves))
    drawn = (_figure(name, of_ranks, _svg(name, of_ranks, most, bands, log_scale)) for name, of_ranks in curves.items())
    return f'<div style="display:flex;flex-wrap:wrap;gap:4px 16px">{"".join(drawn)}</div>'


def pictures_html(curves: Mapping[str, Mapping[int, Curve]], *, log_scale: bool) -> str:
    """Draw all curves as pictures: what cleans other people's HTML of drawings lets those be."""
    most = _most_points(curves)
    figures = []
    for name, of_ranks in curves.items():
        svg = _svg(name, of_ranks, most, 0, log_scale, _PICTURE)
        data = base64.b64encode(svg.encode()).decode()
        words = html.escape(_in_words(name, of_ranks), quote=True)
        picture = f'<img alt="{words}" title="{words}" src="data:image/svg+xml;base64,{data}" width="{_WIDTH}">'
        figures.append(_figure(name, of_ranks, picture))
    return f'<div style="display:flex;flex-wrap:wrap;gap:4px 16px">{"".join(figures)}</div>' if figures else ""


def _most_points(curves: Mapping[str, Mapping[int, Curve]]) -> int:
    lines = sum(len(of_ranks) for of_ranks in curves.values()) or 1
    return max(_FEWEST_POINTS, min(_MOST_POINTS, _ALL_POINTS // lines))


def _figure(name: str, of_ranks: Mapping[int, Curve], drawing: str) -> str:
    first = next(iter(of_ranks.values()))
    value = number(first.last) if first.count else "no number"
    title = f"<b>{html.escape(name)}</b> {value} <small>at {first.last_at:g}{_legend(of_ranks)}</small>"
    return f'<div style="margin:0;width:{_WIDTH}px"><div>{title}</div>{drawing}</div>'


def _legend(of_ranks: Mapping[int, Curve]) -> str:
    if len(of_ranks) == 1:
        return "" if 0 in of_ranks else f", rank {next(iter(of_ranks))}"
    marks = (f'<span style="color:{_colour(place)}">━ {rank}</span>' for place, rank in enumerate(of_ranks))
    return f", ranks {' '.join(marks)}"


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _in_words(name: str, of_ranks: Mapping[int, Curve]) -> str:
    parts = [
        f"{f'rank {rank}: ' if len(of_ranks) > 1 else ''}{number(curve.first)} at the beginning, {number(curve.last)} "
        f"at step {curve.last_at:g}, between {number(curve.low)} and {number(curve.high)}"
        for rank, curve in of_ranks.items()
        if curve.count
    ]
    return f"{name}: {'; '.join(parts) or 'no number'}"


def _svg(name: str, of_ranks: Mapping[int, Curve], most: int, bands: int, log_scale: bool, ink: Ink = _PAGE) -> str:
    scale: Callable[[float], float] = math.log10 if log_scale else float
    lines = {
        rank: [
            (step, scale(value)) for step, value in thinned(curve.drawn_points(), most) if value > 0 or not log_scale
        ]
        for rank, curve in of_ranks.items()
    }
    frame = _frame([point for points in lines.values() for point in points])
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    words = html.escape(_in_words(name, of_ranks), quote=True)
    pen = f'font-family="{ink.font}" font-size="10" fill="{ink.text}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}" {pen}>']
    if frame is None:
        parts.append(f'<text x="{_LEFT}" y="{_HEIGHT // 2}">no value can be drawn</text>')
    else:
        parts.append(_axes(frame, ink, log_scale=log_scale))
        parts += [_line(points, frame, place) for place, points in enumerate(lines.values())]
        parts.append(_bands(lines, frame, bands, log_scale=log_scale))
    return "".join([*parts, "</svg>"])


def _frame(points: Sequence[Point]) -> Frame | None:
    if not points:
        return None
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return Frame(min(steps), max(steps), low - room, high + room)


def _axes(frame: Frame, ink: Ink, *, log_scale: bool) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<g stroke="{ink.text}" stroke-opacity="0.25" stroke-width="1">']
    marks = [frame.low_y + (frame.high_y - frame.low_y) * part for part in (0.05, 0.5, 0.95)]
    parts += [f'<path d="M{_LEFT} {frame.y(mark):.0f}H{right}"/>' for mark in marks]
    parts.append(f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" stroke-opacity="0.6" fill="none"/></g>')
    for mark in marks:
        value = 10 ** min(mark, _LARGEST_EXPONENT) if log_scale else mark
        parts.append(f'<text x="{_LEFT - 4}" y="{frame.y(mark) + 3:.0f}" text-anchor="end">{value:.3g}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 5}">{frame.low_x:g}</text>')
    if frame.high_x > frame.low_x:
        parts.append(f'<text x="{right}" y="{_HEIGHT - 5}" text-anchor="end">{frame.high_x:g}</text>')
    return "".join(parts)


def _line(points: Sequence[Point], frame: Frame, place: int) -> str:
    if not points:
        return ""
    colour = _colour(place)
    if len(points) == 1:
        step, value = points[0]
        return f'<circle cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="3" fill="{colour}"/>'
    dashes = _DASHES[place % len(_DASHES)]
    pen = f'fill="none" stroke="{colour}" stroke-linejoin="round"'
    mean = smoothed(points)
    raw = "" if mean == list(points) else f'<path d="{_path(points, frame)}" {pen} stroke-opacity="0.35"/>'
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'{raw}<path d="{_path(mean, frame)}" {pen} stroke-width="1.8"{dashed}/>'


def _path(points: Sequence[Point], frame: Frame) -> str:
    return "M" + "L".join(f"{frame.x(step):.0f} {frame.y(value):.1f}" for step, value in points)


def _bands(lines: Mapping[int, Sequence[Point]], frame: Frame, count: int, *, log_scale: bool) -> str:
    """Lay what shows the values under the pointer over the chart."""
    longest = max(lines.values(), key=len)
    if not count:
        return ""
    parts = ['<g fill="#000" fill-opacity="0">']
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, min(count, len(longest)))
    for step, _ in thinned(longest, count):
        near = ((rank, min(points, key=lambda point: abs(point[0] - step))) for rank, points in lines.items() if points)
        values = ", ".join(
            f"{f'rank {rank}: ' if len(lines) > 1 else ''}{number(10**value if log_scale else value)}"
            for rank, (_, value) in near
        )
        x = min(max(_LEFT, frame.x(step) - width / 2), _WIDTH - _RIGHT - width)
        parts.append(
            f'<rect x="{x:.0f}" y="{_TOP}" width="{width:.0f}" height="{_HEIGHT - _TOP - _BOTTOM}">'
            f"<title>step {step:g}: {values}</title></rect>"
        )
    return "".join([*parts, "</g>"])
