"""Charts are well-formed pictures of the values, and nothing that a name says gets out of its place."""

from __future__ import annotations

import base64
import math
import re
import xml.etree.ElementTree as ET

import pytest

from notebook_accel.widgets.charts import charts_html, pictures_html
from notebook_accel.widgets.curves import Curve, extended


def curve(*values: float) -> Curve:
    return extended(Curve(), ((float(step), value) for step, value in enumerate(values)))


def drawings(html: str) -> list[ET.Element]:
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html)]


def titles(svg: ET.Element) -> list[str]:
    return [element.text or "" for element in svg.iter() if element.tag.endswith("title")]


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize(
    "values", [(1.0,), (1.0, 1.0), (0.0, -1.0), (1e-9, 1e9), (math.nan,), (0.0,), tuple(range(3000))]
)
def test_any_values_make_a_picture(values: tuple[float, ...], log_scale: bool):
    html = charts_html({"loss": {0: curve(*values)}}, log_scale=log_scale)
    [svg] = drawings(html)
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"].startswith("loss: ")
    drawn = [value for value in values if math.isfinite(value) and (value > 0 or not log_scale)]
    assert ("no value can be drawn" in html) == (not drawn)
    assert "nan" not in "".join(element.attrib.get("d", "") for element in svg.iter())


def test_values_are_under_the_pointer():
    html = charts_html({"loss": {0: curve(4.0, 2.0, 1.0), 1: curve(5.0, 3.0)}}, log_scale=False)
    assert titles(drawings(html)[0]) == [
        "step 0: rank 0: 4, rank 1: 5",
        "step 1: rank 0: 2, rank 1: 3",
        "step 2: rank 0: 1, rank 1: 3",
    ]
    assert titles(drawings(charts_html({"x": {0: curve(100.0)}}, log_scale=True))[0]) == ["step 0: 100"]


def test_names_cannot_leave_their_place():
    name = "<img src=x onerror=alert(1)>\"'&"
    for html in (
        charts_html({name: {0: curve(1.0)}}, log_scale=False),
        pictures_html({name: {0: curve(1.0)}}, log_scale=False),
    ):
        assert "<img src=x" not in html
        assert "&lt;img src=x onerror" in html


def test_what_stays_is_pictures_that_stand_for_themselves():
    html = pictures_html({"loss": {0: curve(2.0, 1.0)}}, log_scale=False)
    [data] = re.findall(r"base64,([^\"]+)", html)
    svg = ET.fromstring(base64.b64decode(data))
    assert svg.attrib["fill"] == "#808080", "to be read on white and on black"
    assert "currentColor" not in base64.b64decode(data).decode()
    assert 'alt="loss: 2 at the beginning, 1 at step 1, between 1 and 2"' in html
    assert pictures_html({}, log_scale=False) == charts_html({}, log_scale=False) == ""


def test_what_is_sent_stays_small():
    many = {f"metric {number}": {rank: curve(*range(1000)) for rank in range(8)} for number in range(12)}
    assert len(charts_html(many, log_scale=False)) < 400_000
