"""The picker without a page: what it is worth before anybody clicks, and what its widgets do when somebody does."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from notebook_accel import environment
from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError
from notebook_accel.hardware import Inventory
from notebook_accel.widgets import HardwarePicker

VIEW = "application/vnd.jupyter.widget-view+json"
FOUR = Inventory.fake(gpus=4)


def double(number: int) -> int:
    return 2 * number


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("NOTEBOOK_ACCEL_UI", raising=False)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch):
    """Show pickers as in a kernel; they are closed at the end, and every thread has ended then."""
    monkeypatch.setattr(environment, "in_notebook_kernel", lambda: True)
    monkeypatch.setenv("NOTEBOOK_ACCEL_UI", "widgets")
    opened: list[HardwarePicker] = []

    def show(*arguments: object, **options: object):
        picker = HardwarePicker(*arguments, **options)
        opened.append(picker)
        assert VIEW in picker._repr_mimebundle_()
        return picker, picker._controls

    yield show
    for picker in opened:
        picker.close()


def option(controls, row: str, label: str):
    (button,) = (each for each in controls._rows[row][2] if each.description.removeprefix("✓ ") == label)
    return button


def test_it_has_a_value_before_anybody_clicks():
    assert HardwarePicker(inventory=FOUR).config == RunConfig(num_processes=4)
    assert HardwarePicker(inventory=Inventory.fake()).config == RunConfig(num_processes=2)
    assert HardwarePicker(inventory=FOUR, config=RunConfig(devices=(1, 3))).code == (
        "notebook_launcher(train, devices=(1, 3))"
    )


def test_it_launches_here(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    picker = HardwarePicker(config=RunConfig(num_processes=1, start_method="inline", devices="cpu"))
    assert picker.launch(double, (4,)).value == 8
    assert picker.bind(double, (5,)).launch().value == 10
    assert picker.bind(double, kwargs={"number": 6}).launch().value == 12
    assert "1 CPU process" in capsys.readouterr().out


def test_what_cannot_be_launched_is_refused():
    picker = HardwarePicker(inventory=FOUR)
    with pytest.raises(ConfigError, match="there is nothing to launch"):
        picker.launch()
    with pytest.raises(ConfigError, match="args must be a tuple"):
        picker.launch(double, 3)
    with pytest.raises(ConfigError, match="must be a function"):
        HardwarePicker(3, inventory=FOUR)
    with pytest.raises(ConfigError, match="config must be a RunConfig"):
        picker.config = {"num_processes": 2}


def test_the_choice_is_saved_and_loaded(tmp_path: Path):
    picker = HardwarePicker(inventory=FOUR)
    picker.config = replace(picker.config, seed=3)
    picker.save(tmp_path / "run.yaml")
    assert HardwarePicker(inventory=FOUR).load(tmp_path / "run.yaml").config == RunConfig(num_processes=4, seed=3)


def test_the_last_choice_of_a_notebook_is_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    first = HardwarePicker().config
    HardwarePicker().config = RunConfig(num_processes=2, devices="cpu", seed=9)
    assert HardwarePicker().config == RunConfig(num_processes=2, devices="cpu", seed=9)
    assert HardwarePicker(config=first).config == first, "what code says comes first"
    assert HardwarePicker(inventory=FOUR).config == RunConfig(num_processes=4), "a made-up machine is no memory"
    monkeypatch.setenv("JPY_SESSION_NAME", "b.ipynb")
    assert HardwarePicker().config == first


@pytest.mark.parametrize(
    ("ui", "kernel", "front_end", "forms"),
    [
        ("auto", False, False, {"text/plain"}),
        ("widgets", False, False, {"text/plain"}),
        ("auto", True, False, {"text/plain"}),
        ("text", True, True, {"text/plain"}),
        ("off", True, True, {"text/plain"}),
        ("html", True, False, {"text/plain", "text/html"}),
        ("auto", True, True, {"text/plain", VIEW}),
    ],
)
def test_how_it_is_shown(monkeypatch: pytest.MonkeyPatch, ui: str, kernel: bool, front_end: bool, forms: set[str]):
    monkeypatch.setattr(environment, "in_notebook_kernel", lambda: kernel)
    monkeypatch.setattr(environment, "has_front_end", lambda: front_end)
    monkeypatch.setenv("NOTEBOOK_ACCEL_UI", ui)
    picker = HardwarePicker(inventory=FOUR)
    bundle = picker._repr_mimebundle_()
    picker.close()
    assert set(bundle) == forms
    assert bundle["text/plain"] == repr(picker)
    assert "[x] GPU 3" in repr(picker)


def test_without_ipywidgets_it_is_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "in_notebook_kernel", lambda: True)
    monkeypatch.setenv("NOTEBOOK_ACCEL_UI", "widgets")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(HardwarePicker(inventory=FOUR)._repr_mimebundle_()) == {"text/plain"}


def test_boxes_and_presets_choose(shown):
    picker, controls = shown(inventory=FOUR)
    for box in (controls._boxes[0], controls._boxes[2]):
        box.value = False
    assert picker.config == RunConfig(devices=(1, 3))
    assert "devices=(1, 3)" in controls._code.value
    option(controls, "Preset", "CPU rehearsal, 4 ranks").value = True
    assert picker.config == RunConfig(num_processes=4, devices="cpu")
    assert controls._cpu_box.value is True
    assert [box.value for box in controls._boxes] == [False] * 4
    assert controls._ranks.disabled is False
    controls._ranks.value = 3
    assert picker.config.num_processes == 3
    controls._cpu_box.value = False
    assert picker.config == RunConfig(num_processes=4)
    assert (controls._ranks.value, controls._ranks.disabled) == (4, True)


def test_pressing_what_is_chosen_changes_nothing(shown):
    picker, controls = shown(inventory=FOUR)
    chosen = option(controls, "Preset", "everything")
    assert chosen.value is True
    chosen.value = False
    assert chosen.value is True
    assert picker.config == RunConfig(num_processes=4)


def test_what_is_impossible_is_disabled_and_says_why(shown):
    picker, controls = shown(inventory=Inventory.fake(gpus=["T4", "P100"]))
    bf16 = option(controls, "Precision", "bf16")
    assert bf16.disabled is True
    assert "no bfloat16" in bf16.tooltip
    bf16.value = True  # a page that is late
    assert picker.config.mixed_precision == "no"
    assert bf16.value is False
    assert controls._boxes[1].disabled is True
    controls._boxes[1].value = True
    assert picker.config == RunConfig(devices=(0,))
    assert "no bfloat16" in controls._impossible.value


@pytest.mark.parametrize(("text", "seed"), [("7", 7), (" 8 ", 8), ("", None)])
def test_a_seed(shown, text: str, seed: int | None):
    picker, controls = shown(inventory=FOUR, config=RunConfig(seed=1))
    controls._seed.value = text
    assert picker.config == RunConfig(seed=seed)
    assert ("fresh random numbers" in controls._seed_note.value) is (seed is None)


@pytest.mark.parametrize("text", ["many", "-1", "1.5", str(2**64), "\u00b2"])
def test_a_wrong_seed_is_said_and_not_taken(shown, text: str):
    picker, controls = shown(inventory=FOUR, config=RunConfig(seed=1))
    controls._seed.value = text
    assert picker.config.seed == 1
    assert "the seed is still 1" in controls._seed_note.value


def test_a_config_set_in_code_is_drawn(shown):
    picker, controls = shown(inventory=FOUR)
    picker.config = RunConfig(devices=(2,), mixed_precision="fp16", start_method="spawn", seed=4)
    assert [box.value for box in controls._boxes] == [False, False, True, False]
    assert option(controls, "Precision", "fp16").value is True
    assert option(controls, "Start method", "spawn").description == "✓ spawn"
    assert controls._seed.value == "4"
    picker.config = RunConfig(devices=(9,))
    assert "not possible" in controls._verdict.value


def test_new_loads_are_drawn(shown):
    picker, controls = shown(inventory=FOUR)
    assert "97 % busy" not in controls._texts[1].value
    picker.inventory = Inventory.fake(gpus=4, full=[1])
    picker.refresh()
    assert "97 % busy" in controls._texts[1].value
    assert "its memory is taken" in controls._texts[1].value


def test_the_launch_button_is_there_for_a_bound_function(shown):
    picker, controls = shown(inventory=FOUR)
    assert controls.launch.layout.display == "none"
    picker.bind(double, (1,))
    assert (controls.launch.layout.display, controls.launch.disabled) == ("", False)
    picker.config = RunConfig(num_processes=1, start_method="inline")
    assert controls.launch.disabled is True, "a function in this process would print into no cell"
    controls.launch.click()
    assert picker.run is None or picker.run.state != "running"


def test_what_is_refused_is_said_in_the_picker(shown):
    picker, controls = shown(double, (1,), inventory=FOUR, config=RunConfig(devices=(1, 3)))
    controls.launch.click()
    assert "not launched" in controls.run.value
    assert "this process sees no GPU" in controls.run.value
    assert picker.run is None


def test_a_closed_picker_is_closed_and_can_be_shown_again(shown):
    picker, controls = shown(inventory=FOUR)
    refreshing = picker._refreshing
    assert refreshing.is_running
    picker.close()
    assert not refreshing.is_running
    picker.close()
    assert VIEW in picker._repr_mimebundle_()
    assert picker._controls is not controls


def test_a_choice_that_comes_while_another_thread_draws_is_not_lost(shown):
    picker, controls = shown(inventory=FOUR)
    drawing, chosen = threading.Event(), threading.Event()
    controls._texts[3].observe(lambda change: (drawing.set(), chosen.wait(1)), "value")
    picker.inventory = Inventory.fake(gpus=4, full=[3])
    refreshing = threading.Thread(target=picker.refresh)
    refreshing.start()
    assert drawing.wait(10)
    controls._boxes[0].value = False  # waits for its turn
    refreshing.join(10)
    chosen.set()
    assert picker.config == RunConfig(devices=(1, 2, 3))
    assert controls._boxes[0].value is False
