"""The run panel as a person sees and uses it, in JupyterLab and in Notebook 7."""

from __future__ import annotations

import time

import nbformat
import pytest

from tests.browser.conftest import open_page
from tests.browser.test_quickstart import KERNEL_IS_IDLE, OUTPUTS, text_of
from tests.patience import stopwatch

pytestmark = pytest.mark.browser

IMPORTS = """
import math, random, time
from notebook_accel import Accelerator, last_run, notebook_launcher
from tqdm.auto import trange
"""
TRAINING = """
def train(steps=400, seconds=0.02):
    accelerator = Accelerator()
    random.seed(accelerator.process_index)
    for step in trange(steps, desc="steps"):
        time.sleep(seconds * (1 + 0.3 * accelerator.process_index))
        loss = 2.3 * math.exp(-step / 100) + 0.1 * random.random() + 0.05
        accelerator.log({"loss": loss, "accuracy": 1 - loss / 3}, step=step)
        if step % 20 == 0:
            print(f"step {step}: loss {loss:.3f}")
    return "done"
"""
FAILING = """def fail():
    for step in trange(40, desc="steps"):
        time.sleep(0.05)
        if step == 30 and Accelerator().process_index == 1:
            raise ValueError("a batch without labels")

notebook_launcher(fail, num_processes=2, devices="cpu")
"""
OUTPUT = ".jp-mod-active .jp-Cell-outputArea"
APPS = {"lab": "lab/tree", "notebook": "notebooks"}
RUN_CELL = """i => {
    const book = window.jupyterapp.shell.currentWidget.content;
    book.activeCellIndex = i;
    book.deselectAll();
    window.ran = false;
    window.jupyterapp.commands.execute('notebook:run-cell').finally(() => { window.ran = true; });
}"""
RAN = "() => window.ran === true"
SAVE = "() => window.jupyterapp.commands.execute('docmanager:save')"
THEME = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: `JupyterLab ${name}`})"
COUNT_BARS = "n => document.querySelectorAll('progress[aria-label^=rank]').length === n"
BARS = "() => [...document.querySelectorAll('progress[aria-label^=rank]')].map(bar => bar.value)"
BARS_MOVED = """before => [...document.querySelectorAll('progress[aria-label^=rank]')]
    .every((bar, i) => bar.value > before[i])"""


@pytest.fixture(params=list(APPS))
def app(request: pytest.FixtureRequest) -> str:
    if request.param == "notebook":
        pytest.importorskip("notebook", minversion="7")
    return request.param


@pytest.fixture
def opened(lab, page, app, request):
    """Open a notebook of our own cells in an idle kernel; give its page."""

    def open_cells(*cells: str):
        tab = page.playwright
        name = f"{app}-{request.node.originalname}-{time.monotonic_ns()}.ipynb"
        tab.goto(lab.write(name, [IMPORTS, TRAINING, *cells], APPS[app]))
        tab.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
        set_theme(tab, "Light")
        for cell in (0, 1):
            run(tab, cell)
            tab.wait_for_function(RAN, timeout=60_000)
        return tab, lab.notebooks / name

    return open_cells


def run(tab, cell: int) -> None:
    tab.evaluate(RUN_CELL, cell)


def set_theme(tab, name: str) -> None:
    tab.evaluate(THEME, name)
    tab.wait_for_selector(f"body[data-jp-theme-light={str(name == 'Light').lower()}]", state="attached")


def until_bars_move(tab, count: int) -> None:
    tab.wait_for_function(COUNT_BARS, arg=count, timeout=60_000)
    tab.wait_for_function(BARS_MOVED, arg=tab.evaluate(BARS), timeout=10_000)


def outputs_of(tab, cell: int) -> list:
    return tab.evaluate(OUTPUTS)[cell]


def test_both_ranks_are_seen_to_move_and_what_stays_needs_no_kernel(browser, lab, page, opened, app):
    tab, file = opened("result = notebook_launcher(train, num_processes=2, devices='cpu')")
    run(tab, 2)
    until_bars_move(tab, 2)
    tab.wait_for_selector("svg[aria-label^=loss] path[stroke-width]", state="attached", timeout=10_000)
    assert "step " in (tab.locator("svg[aria-label^=loss] rect title").first.text_content() or "")
    page.screenshot(f"panel-{app}-running-light", OUTPUT)
    set_theme(tab, "Dark")
    tab.get_by_role("button", name="Log scale").click()
    tab.get_by_role("button", name="Linear scale").wait_for(timeout=5_000)
    tab.get_by_role("button", name="rank 1").click()
    tab.wait_for_selector("[role=log][aria-label='output of rank 1']", timeout=5_000)
    page.screenshot(f"panel-{app}-running-dark", OUTPUT)

    tab.wait_for_function(RAN, timeout=60_000)
    tab.wait_for_selector("img[alt^=loss]", timeout=5_000)
    page.screenshot(f"panel-{app}-succeeded-dark", OUTPUT)
    data = [output["data"] for output in outputs_of(tab, 2) if output["output_type"] == "display_data"]
    assert [sorted(each) for each in data] == [["text/html", "text/plain"]], "a widget was left"
    assert "train succeeded after" in text_of(outputs_of(tab, 2))
    tab.evaluate(SAVE)

    lab.end_kernels()
    saved = nbformat.read(file, as_version=4)
    saved.metadata.pop("widgets", None)
    saved.metadata["kernelspec"] = {"name": "none-such", "display_name": "none", "language": "python"}
    nbformat.write(saved, file.with_name(f"again-{file.name}"))  # never signed: to the server it is a stranger's
    again = open_page(browser, lab)
    address = f"{lab.address}/{APPS[app]}/again-{file.name}?token=tested"
    again.playwright.goto(address + ("&reset" if app == "lab" else ""))
    again.playwright.wait_for_selector("img[alt^=loss]", timeout=30_000)
    assert again.playwright.locator("img[alt^=loss]").evaluate("image => image.naturalWidth") > 0
    shown = " ".join(again.playwright.locator(".jp-OutputArea-output").all_inner_texts())
    assert "train succeeded" in shown
    assert "step 380: loss" in shown
    again.screenshot(f"panel-{app}-reopened")
    again.playwright.close()
    assert page.elsewhere == again.elsewhere == []


def test_stop_ends_a_run_while_its_cell_blocks(page, opened, app):
    tab, _ = opened(
        "result = notebook_launcher(train, args=(10_000,), num_processes=2, devices='cpu')",
        "print('usable', last_run().state)",
    )
    run(tab, 2)
    until_bars_move(tab, 2)
    tab.get_by_role("button", name="Stop").click()
    with stopwatch() as watch:
        tab.wait_for_function(RAN, timeout=30_000)
    assert watch.seconds < 2
    page.screenshot(f"panel-{app}-stopped-light", OUTPUT)
    run(tab, 3)
    tab.wait_for_function(RAN, timeout=30_000)
    assert "usable interrupted" in text_of(outputs_of(tab, 3))
    assert tab.get_by_role("button", name="Stop").count() == 0
    assert page.elsewhere == []


def test_a_failing_run_shows_the_line_of_its_cell(page, opened, app):
    tab, _ = opened(FAILING)
    run(tab, 2)
    tab.wait_for_function(RAN, timeout=60_000)
    alert = tab.locator("[role=alert]")
    alert.wait_for(timeout=5_000)
    shown = alert.inner_text()
    assert "rank 1 of 2 failed first: ValueError: a batch without labels" in shown
    assert "Cell In[3], line 5, in fail" in shown
    page.screenshot(f"panel-{app}-failed-light", OUTPUT)
    set_theme(tab, "Dark")
    page.screenshot(f"panel-{app}-failed-dark", OUTPUT)
    assert page.elsewhere == []


def test_background_runs_outlive_the_page_and_are_shown_again(lab, page, opened, app):
    tab, _ = opened(
        "one = notebook_launcher(train, args=(600,), num_processes=1, devices='cpu', block=False)",
        "two = notebook_launcher(train, args=(600,), num_processes=1, devices='cpu', block=False)",
        "last_run().show()",
        "two.stop(); one.stop()",
    )
    for cell in (2, 3):
        run(tab, cell)
        tab.wait_for_function(RAN, timeout=60_000)
    until_bars_move(tab, 2)
    assert tab.get_by_role("button", name="Stop").count() == 2
    page.screenshot(f"panel-{app}-two-runs-light")
    tab.evaluate(SAVE)
    tab.reload()
    tab.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
    until_bars_move(tab, 2)
    run(tab, 4)
    until_bars_move(tab, 3)
    run(tab, 5)
    tab.wait_for_function(RAN, timeout=60_000)
    tab.wait_for_function("() => document.body.innerText.match(/train.interrupted/)", timeout=10_000)
    assert "train interrupted" in text_of(outputs_of(tab, 4))
    assert page.elsewhere == []
