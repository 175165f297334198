"""The hardware picker at the level of messages: a real kernel, and a page that is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.kernels import Notebook
from tests.integration.panels import WIDGET, Page, PanelNotebook

SETUP = """
from notebook_accel import Accelerator, RunConfig
from notebook_accel.hardware import Inventory
from notebook_accel.widgets import HardwarePicker

def train(steps):
    accelerator = Accelerator()
    print("begins")
    while steps < 0 and not accelerator.should_stop:
        pass
    return f"{accelerator.num_processes} ranks in {accelerator.mixed_precision}"
"""
CODE = "the same in code"


class PickerNotebook(PanelNotebook):
    """A kernel whose messages make up a page with a picker."""

    def choose(self, kind: str, label: str, value: object) -> None:
        """Set a control, as a page does."""
        for comm, state in self.page.models.items():
            described = str(state.get("description", "")).removeprefix("✓ ")
            if state.get("_model_name") == f"{kind}Model" and described == label:
                data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
                self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": comm, "data": data}))
                return
        raise AssertionError(f"no {kind} {label!r}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[PickerNotebook]:
    variables = {"NOTEBOOK_ACCEL_HOME": str(home), "JPY_SESSION_NAME": "my book.ipynb"}
    kernel = PickerNotebook(str(tmp_path_factory.mktemp("notebook")), variables)
    kernel.cell(SETUP)
    assert kernel.page.error_name is None, kernel.page.error_text
    kernel.cell("HardwarePicker(config=RunConfig(num_processes=2, devices='cpu')).launch(train, (0,))")  # its helper
    yield kernel
    kernel.close()


@pytest.fixture
def notebook(opened: PickerNotebook) -> Iterator[PickerNotebook]:
    """The kernel of this module's tests; each leaves no picker behind."""
    opened.page.text = ""
    yield opened
    opened.cell("picker.close()")
    kinds = {state.get("_model_name") for state in opened.page.models.values()}
    assert not kinds & {"CheckboxModel", "ToggleButtonModel"}, "panels of ended runs stay for a while, pickers do not"
    assert live_threads(opened) == []


def drawn(text: str):
    return lambda page: text in page.drawn.replace("&quot;", '"')


def live_threads(notebook: PickerNotebook) -> list[str]:
    notebook.page.text = ""
    notebook.cell("import threading; print([t.name for t in threading.enumerate() if 'picker' in t.name])")
    return eval(notebook.page.text.strip().splitlines()[-1])


def test_two_ranks_in_bf16_are_picked_launched_and_remembered(notebook: PickerNotebook, home: Path):
    page = notebook.cell("picker = HardwarePicker(train, (0,)); display(picker)")
    assert page.error_name is None, page.error_text
    assert page.live
    notebook.choose("ToggleButton", "CPU rehearsal, 2 ranks", True)
    notebook.choose("ToggleButton", "bf16", True)
    notebook.choose("Text", "Seed", "7")
    notebook.until(drawn('mixed_precision="bf16", devices="cpu", seed=7)'), "the line of code")
    notebook.press("Launch")
    notebook.until(drawn("RunResult(2 ranks"), "the run's result")
    notebook.until(lambda page: "train</b> succeeded" in page.still, "the panel's end, below the picker")
    assert "2 ranks in bf16" in page.drawn
    notebook.cell("print(picker.run.result().value, picker.config.seed)")
    assert "2 ranks in bf16 7" in page.text
    (file,) = (home / "picker").glob("my-book-*.yaml")
    assert yaml.safe_load(file.read_text())["mixed_precision"] == "bf16"

    again = notebook.cell("print(HardwarePicker().code)").text
    assert 'notebook_launcher(train, num_processes=2, mixed_precision="bf16", devices="cpu", seed=7)' in again


def test_a_run_is_stopped_and_a_failure_is_shown(notebook: PickerNotebook):
    notebook.cell(
        "picker = HardwarePicker(train, (-1,), config=RunConfig(num_processes=2, devices='cpu')); display(picker)"
    )
    notebook.press("Launch")
    notebook.until(drawn("begins"), "the output")
    notebook.until(lambda page: page.button("Stop"), "a button to stop it")
    notebook.press("Stop")
    notebook.until(lambda page: "train</b> interrupted" in page.still, "the end")
    notebook.cell("_ = picker.bind(len, (3,))")
    notebook.press("Launch")
    notebook.until(lambda page: "object of type" in page.still, "the failure")
    assert "len</b> failed" in notebook.page.still


def test_single_gpus_of_a_made_up_machine(notebook: PickerNotebook):
    page = notebook.cell("picker = HardwarePicker(inventory=Inventory.fake(gpus=4)); display(picker)")
    for number in (0, 2):
        notebook.choose("Checkbox", f"GPU {number}", False)
    notebook.until(drawn("notebook_launcher(train, devices=(1, 3))"), "1 and 3 of 4")
    notebook.cell("print(picker.config.devices)")
    assert "(1, 3)" in page.text


def test_the_cpus_load_moves_and_a_widget_that_somebody_closed_ends_the_thread(notebook: PickerNotebook):
    page = notebook.cell("picker = HardwarePicker(); display(picker)")
    notebook.until(drawn("% busy"), "the first load", 20)
    assert live_threads(notebook) == ["notebook_accel-picker"]
    before = page.widget_bytes
    notebook.until(lambda page: page.widget_bytes > before, "new loads while the kernel is idle", 20)
    notebook.cell("import ipywidgets; ipywidgets.Widget.close_all(); picker._refreshing._thread.join(20)")
    assert live_threads(notebook) == []


def test_without_a_page_it_is_text_and_launches_all_the_same(tmp_path: Path):
    opened = Notebook(str(tmp_path), {"NOTEBOOK_ACCEL_UI": "auto", "NOTEBOOK_ACCEL_HOME": str(tmp_path)})
    try:
        opened.check(SETUP)
        reply = opened.run("picker = HardwarePicker(); display(picker)\nprint(picker.launch(train, (0,)).value)")
        assert reply.error_name is None, reply.error_text
        assert set(reply.bundles[0]) == {"text/plain"}
        assert "[x] CPU  " in reply.shown[0]
        assert "ranks in no" in reply.text
    finally:
        opened.close()


def test_a_page_shows_each_picker_once(notebook: PickerNotebook):
    page: Page = notebook.cell("picker = HardwarePicker(); display(picker); display(picker)")
    views = [data[WIDGET]["model_id"] for data in page.displays.values() if WIDGET in data]
    assert views[-2] == views[-1]
