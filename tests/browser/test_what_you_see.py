"""Bars, displays and figures of ranks as a person sees them in JupyterLab."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.browser.test_quickstart import ALL_RAN, KERNEL_IS_IDLE, OUTPUTS, RUN_ALL, text_of

pytestmark = pytest.mark.browser


def without_a_panel(file: Path) -> None:
    """Let a notebook's runs be shown as they are where no front end says that it is there: without a panel."""
    book = nbformat.read(file, as_version=4)
    first = next(cell for cell in book.cells if cell.cell_type == "code")
    first.source = f"import os; os.environ.pop('JPY_SESSION_NAME', None)\n{first.source}"
    nbformat.write(book, file)


def test_bars_displays_and_figures_appear_in_jupyterlab(lab, page):
    tab = page.playwright
    address = lab.copy("03_what_you_see.ipynb")
    without_a_panel(lab.notebooks / "03_what_you_see.ipynb")
    tab.goto(address)
    tab.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
    tab.evaluate(RUN_ALL)
    tab.wait_for_function(ALL_RAN, timeout=100_000)

    outputs = tab.evaluate(OUTPUTS)
    page.screenshot("what_you_see")
    texts = [text_of(cell) for cell in outputs]
    trained, shown = outputs[1], outputs[2]
    assert "[rank 1] begins with" in texts[1]
    bars = [output["data"] for output in trained if "<progress" in "".join(output.get("data", {}).get("text/html", ""))]
    assert len(bars) == 1, "one place in the cell, drawn anew"
    assert "".join(bars[0]["text/plain"]).startswith("epochs: 100%|")
    assert "steps" not in "".join(bars[0]["text/plain"])
    assert "'loss': 1.0" in texts[1]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1
    assert any("rank 1" in "".join(output.get("data", {}).get("text/html", "")) for output in shown)
    assert "[rank 1]" in texts[2]
    assert tab.locator(".jp-OutputArea-output progress").count() == 1
    assert page.elsewhere == []
