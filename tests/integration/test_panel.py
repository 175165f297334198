"""The run panel as the messages of a real kernel make it up, on whatever versions of the notebook are installed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.panels import PanelNotebook
from tests.patience import stopwatch

TRAINING = """
import time
from notebook_accel import Accelerator, last_run, notebook_launcher
from tqdm.auto import trange

def train(steps=2000):
    accelerator = Accelerator()
    for step in trange(steps, desc="steps"):
        time.sleep(0.01)
        accelerator.log({"loss": 1 / (1 + step), "rate": 0.1}, step=step)
        if step % 50 == 0:
            print("at", step)
    return "done"
"""


@pytest.fixture(scope="module")
def notebook(marked_run: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PanelNotebook]:
    opened = PanelNotebook(str(tmp_path_factory.mktemp("panel")))
    assert opened.cell(TRAINING).error_name is None, opened.page.error_text
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def fresh_page(notebook: PanelNotebook) -> None:
    notebook.page.displays.clear()
    notebook.page.text = ""


def test_bars_curves_and_lines_of_both_ranks_and_then_what_stays(notebook):
    page = notebook.page
    request = notebook.begin("result = notebook_launcher(train, args=(200,), num_processes=2, devices='cpu')")
    notebook.until(lambda page: page.live and "loss</b>" in page.drawn, "a live panel with a curve")
    assert 'aria-label="rank 1"' in page.drawn
    assert "<title>step " in page.drawn
    notebook.press("rank 1")
    notebook.until(lambda page: "output of rank 1" in page.drawn, "rank 1's output alone")
    notebook.to_end(request)
    assert page.error_name is None, page.error_text
    assert not page.live
    assert "succeeded" in page.still
    assert "data:image/svg+xml;base64," in page.still
    assert "at 150" in page.still
    [text] = [data["text/plain"] for data in page.displays.values() if "succeeded" in data["text/plain"]]
    assert "rank 1: " in text
    assert "loss: █" in text


def test_stop_ends_a_run_while_its_cell_blocks_and_the_cell_can_be_used(notebook):
    page = notebook.page
    request = notebook.begin("notebook_launcher(train, num_processes=2, devices='cpu')")
    notebook.until(lambda page: page.live and page.drawn.count("at 0") >= 2, "both ranks in their loops")
    with stopwatch() as watch:
        notebook.press("Stop")
        notebook.to_end(request)
    assert watch.seconds < 2
    assert page.error_name == "KeyboardInterrupt"
    assert "rank 1: in train" in page.error_text
    assert "interrupted" in page.still
    assert notebook.cell("print('usable', last_run().state)").text.endswith("usable interrupted\n")


def test_what_comes_for_the_kernel_meanwhile_is_done_after_the_cell(notebook):
    page = notebook.page
    first = notebook.begin("x = notebook_launcher(train, args=(150,), num_processes=1, devices='cpu').value")
    notebook.until(lambda page: page.live, "a live panel")
    second = notebook.client.execute("print('then', x)")
    third = notebook.client.execute("print('and then')")
    notebook.to_end(first)
    notebook.to_end(second)
    notebook.to_end(third)
    assert page.text.endswith("then done\nand then\n")


def test_log_scale_pause_and_stacks_work_while_the_cell_blocks(notebook):
    page = notebook.page
    request = notebook.begin("notebook_launcher(train, num_processes=2, devices='cpu')")
    notebook.until(lambda page: page.live and page.button("Log scale"), "a live panel")
    notebook.press("Log scale")
    notebook.until(lambda page: page.button("Linear scale"), "a logarithmic scale")
    notebook.press("Pause")
    notebook.until(lambda page: page.button("Follow"), "a paused output")
    notebook.press("Follow")
    notebook.until(lambda page: page.button("Pause"), "an output that is followed again")
    notebook.press("Stacks")
    notebook.until(lambda page: "<summary>rank 1</summary>" in page.drawn, "stacks")
    assert "in train" in page.drawn
    notebook.press("Stop")
    notebook.to_end(request)
    assert "interrupted" in page.still


def test_a_failing_run_shows_the_line_of_its_cell(notebook):
    page = notebook.page
    request = notebook.begin(
        "def fail():\n    time.sleep(1.5)\n    if Accelerator().process_index == 1:\n"
        "        raise ValueError('boom')\n    time.sleep(60)\n"
        "notebook_launcher(fail, num_processes=2, devices='cpu')"
    )
    notebook.to_end(request)
    assert page.error_name == "RankFailed"
    assert "rank 1 of 2 failed first: ValueError: boom" in page.still
    assert "line 4, in fail: raise ValueError(&#x27;boom&#x27;)" in page.still
    assert "Cell In[" in page.still


def test_two_runs_in_the_background_are_seen_at_once_and_can_be_shown_again(notebook):
    page = notebook.page
    made = "notebook_launcher(train, args=({},), num_processes=1, devices='cpu', block=False)"
    notebook.cell(f"one = {made.format(150)}\ntwo = {made.format(2000)}")
    notebook.until(lambda page: sum("widget-view" in str(list(data)) for data in page.displays.values()) == 2, "two")
    notebook.until(lambda page: "succeeded" in page.still, "what stays of the first")
    assert page.live
    page.displays.clear()  # the tab was closed
    notebook.cell("last_run().show()")
    assert page.live
    notebook.cell("two.interrupt()")
    notebook.until(lambda page: "interrupted" in page.still, "what stays of the second")
    page.displays.clear()
    notebook.cell("one.show()")
    assert "succeeded" in page.still
    assert "at 100" in page.still
    assert not page.live


def test_a_quick_run_has_no_panel_and_one_that_displays_has_its_displays(notebook):
    page = notebook.page
    notebook.cell("notebook_launcher(max, args=(1, 2), num_processes=1, devices='cpu')")
    assert not page.displays
    notebook.cell(
        "def show():\n    from IPython.display import HTML, display\n    time.sleep(1.5)\n"
        "    display(HTML('<b>of the rank</b>'))\n    time.sleep(0.5)\n"
        "notebook_launcher(show, num_processes=1, devices='cpu')"
    )
    assert page.error_name is None, page.error_text
    assert "<b>of the rank</b>" in page.still
    assert "succeeded" in page.still


def test_an_interrupt_of_the_kernel_stops_a_run_with_a_panel(notebook):
    page = notebook.page
    request = notebook.begin("notebook_launcher(train, num_processes=2, devices='cpu')")
    notebook.until(lambda page: page.live, "a live panel")
    notebook.interrupt()
    notebook.to_end(request)
    assert page.error_name == "KeyboardInterrupt"
    assert "interrupted" in page.still
    assert not page.live


def test_a_flood_of_output_sends_little_to_the_browser(notebook):
    page = notebook.page
    request = notebook.begin(
        "def flood():\n    until = time.monotonic() + 5\n    while time.monotonic() < until:\n"
        "        print('x' * 200, time.monotonic())\n"
        "notebook_launcher(flood, num_processes=2, devices='cpu')"
    )
    notebook.until(lambda page: page.live, "a live panel")
    page.widget_bytes, page.updates = 0, []
    begun_at = time.monotonic()
    notebook.to_end(request)
    assert page.widget_bytes / (time.monotonic() - begun_at) < 200_000
    assert page.error_name is None


def test_html_without_widgets_shows_the_same(notebook):
    page = notebook.page
    notebook.cell("import os; os.environ['NOTEBOOK_ACCEL_UI'] = 'html'")
    try:
        request = notebook.begin("notebook_launcher(train, args=(200,), num_processes=2, devices='cpu')")
        notebook.until(lambda page: "running" in page.still and "<svg" in page.still, "HTML that moves")
        assert not page.live
        notebook.to_end(request)
        assert "succeeded" in page.still
    finally:
        notebook.cell("os.environ['NOTEBOOK_ACCEL_UI'] = 'widgets'")


def test_an_unknown_ui_is_refused_before_anything_starts(notebook):
    page = notebook.cell(
        "os.environ['NOTEBOOK_ACCEL_UI'] = 'fancy'\ntry:\n    notebook_launcher(max, args=(1, 2), num_processes=1)\n"
        "finally:\n    os.environ['NOTEBOOK_ACCEL_UI'] = 'widgets'"
    )
    assert page.error_name == "ConfigError"
    assert "auto, widgets, html, text, off" in page.error_text
