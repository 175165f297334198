"""The hardware picker as a person sees and uses it in JupyterLab and Notebook 7, on this machine and made-up ones."""

from __future__ import annotations

import time

import pytest

from tests.browser.conftest import keep_picture
from tests.browser.test_quickstart import KERNEL_IS_IDLE, OUTPUTS, text_of
from tests.browser.test_run_panel import APPS, RAN, RUN_CELL, set_theme, until_bars_move

pytestmark = pytest.mark.browser

IMPORTS = """
import time
import torch
from tqdm.auto import trange
from notebook_accel import Accelerator, RunConfig
from notebook_accel.hardware import Inventory
from notebook_accel.widgets import HardwarePicker
"""
TRAINING = """
def train(steps):
    accelerator = Accelerator()
    model = accelerator.prepare(torch.nn.Linear(4, 1))
    for step in trange(steps, desc="steps"):
        time.sleep(0.02)
        loss = model(torch.ones(8, 4)).square().mean()
        accelerator.log({"loss": loss.item() + 1 / (1 + step)}, step=step)
    accelerator.print(f"{accelerator.num_processes} ranks in {accelerator.mixed_precision}")
    return f"rank {accelerator.process_index} is done"
"""
HERE = "picker = HardwarePicker(train, args=(200,))\npicker"
FOUR = "picker = HardwarePicker(inventory=Inventory.fake(gpus=4, full=[2]))\npicker"
MIXED = "picker = HardwarePicker(train, inventory=Inventory.fake(gpus=['T4', 'T4', 'P100'], exclusive=[1]))\npicker"
PICKER = ".jp-OutputArea-output .widget-vbox >> nth=0"


@pytest.fixture
def opened(lab, page):
    """Open a notebook of our own cells in an idle kernel; give its page."""

    def open_cells(*cells: str, app: str = "lab"):
        if app == "notebook":
            pytest.importorskip("notebook", minversion="7")
        tab = page.playwright
        tab.goto(lab.write(f"{app}-{time.monotonic_ns()}.ipynb", [IMPORTS, TRAINING, *cells], APPS[app]))
        tab.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
        set_theme(tab, "Light")
        for cell in (0, 1, 2):
            run(tab, cell)
        return tab

    return open_cells


def run(tab, cell: int) -> str:
    tab.evaluate(RUN_CELL, cell)
    tab.wait_for_function(RAN, timeout=60_000)
    return text_of(tab.evaluate(OUTPUTS)[cell])


def picture(tab, name: str) -> None:
    """Keep a small picture of the picker in both themes where NOTEBOOK_ACCEL_SCREENSHOTS says, if it says."""
    for theme in ("Dark", "Light"):
        set_theme(tab, theme)
        tab.locator(PICKER).wait_for()
        keep_picture(f"picker-{name}-{theme.lower()}", tab.locator(PICKER).screenshot)


def button(tab, name: str):
    return tab.locator(PICKER).get_by_role("button", name=name)


def box(tab, label: str):
    return tab.locator(PICKER).get_by_label(label, exact=True)


def code(tab) -> str:
    return tab.locator("code[aria-label='the same in code']").inner_text()


def until_code_is(tab, text: str) -> None:
    tab.wait_for_function(
        "text => document.querySelector('code[aria-label=\"the same in code\"]').innerText === text",
        arg=text,
        timeout=10_000,
    )


@pytest.mark.parametrize("app", APPS)
def test_two_cpu_ranks_in_bf16_are_picked_and_launched(page, opened, app):
    tab = opened(HERE, "picker.config", "picker.run.result()[1]", app=app)
    tab.locator(PICKER).wait_for()
    button(tab, "CPU rehearsal, 2 ranks").click()
    button(tab, "bf16").click()
    box(tab, "Seed").fill("7")
    box(tab, "Seed").press("Enter")
    until_code_is(
        tab,
        'notebook_launcher(train, args=(200,), num_processes=2, mixed_precision="bf16", devices="cpu", seed=7)',
    )
    button(tab, "Launch").click()
    until_bars_move(tab, 2)
    tab.wait_for_selector("svg[aria-label^=loss] path[stroke-width]", state="attached", timeout=10_000)
    assert button(tab, "Launch").is_disabled(), "one run at a time"
    page.screenshot(f"picker-{app}-running")
    tab.get_by_label("result").wait_for(timeout=60_000)
    assert "rank 1 is done" in tab.locator(PICKER).inner_text()
    panel = tab.locator(".jp-OutputArea-output").filter(has_text="train succeeded").last
    assert "2 ranks in bf16" in panel.inner_text()
    if app == "lab":
        picture(tab, "launched")
    said = run(tab, 3)
    assert "num_processes=2" in said
    assert "mixed_precision='bf16'" in said
    assert "rank 1 is done" in run(tab, 4)
    assert page.elsewhere == []


def test_single_gpus_of_four_are_picked(page, opened):
    tab = opened(FOUR, "picker.config.devices")
    tab.locator(PICKER).wait_for()
    assert code(tab) == "notebook_launcher(train, devices=(0, 1, 3))", "a GPU whose memory is taken is left out"
    box(tab, "GPU 0").uncheck()
    until_code_is(tab, "notebook_launcher(train, devices=(1, 3))")
    picture(tab, "four-gpus")
    assert button(tab, "Launch").count() == 0, "nothing is bound"
    assert "(1, 3)" in run(tab, 3)
    box(tab, "GPU 2").check()
    box(tab, "GPU 0").check()
    until_code_is(tab, "notebook_launcher(train, num_processes=4)")
    box(tab, "CPU").check()
    until_code_is(tab, 'notebook_launcher(train, num_processes=4, devices="cpu")')
    assert page.elsewhere == []


def test_what_is_impossible_is_disabled_and_explained(page, opened):
    tab = opened(MIXED)
    tab.locator(PICKER).wait_for()
    assert button(tab, "bf16").is_disabled()
    assert box(tab, "GPU 2").is_disabled()
    shown = tab.locator(PICKER).inner_text()
    assert "Tesla T4 has no bfloat16 of its own" in shown
    assert "no kernels for its compute capability 6.0" in shown
    assert "its compute mode lets one process use it" in shown
    picture(tab, "mixed-gpus")
    assert page.elsewhere == []


def test_the_keyboard_is_enough(page, opened):
    tab = opened(FOUR)
    box(tab, "GPU 0").focus()
    tab.keyboard.press("Space")
    until_code_is(tab, "notebook_launcher(train, devices=(1, 3))")
    button(tab, "fp16").focus()
    tab.keyboard.press("Enter")
    until_code_is(tab, 'notebook_launcher(train, mixed_precision="fp16", devices=(1, 3))')
    tab.keyboard.press("Tab")
    assert tab.evaluate("() => document.activeElement.innerText").strip() != ""
    assert page.elsewhere == []
