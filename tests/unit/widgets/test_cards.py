from __future__ import annotations

import re

from notebook_accel.config import RunConfig
from notebook_accel.hardware import Inventory, Load
from notebook_accel.hardware.loads import CpuLoad
from notebook_accel.launch.job import Call
from notebook_accel.widgets.cards import code_html, cpu_html, device_html, remarks_html, verdict_html
from notebook_accel.widgets.choices import Machine, device_choices, first_choice
from notebook_accel.widgets.still import still_html


def machine(**facts: object) -> Machine:
    inventory = Inventory.fake(**facts)
    return Machine(inventory, inventory.loads)


def test_a_device_is_drawn_with_what_is_known():
    place = machine(gpus=2, full=[1])
    free, full = (device_html(choice) for choice in device_choices(first_choice(place), place))
    assert "15.8 of 16.0 GiB free" in free
    assert 'aria-label="GPU 0 memory taken 1 %"' in free
    assert "careful" not in free
    assert 'aria-label="GPU 1 busy 97 %"' in full
    assert "<b>⚠ careful</b>: its memory is taken" in full


def test_what_nobody_knows_is_not_drawn():
    place = Machine(Inventory.fake(gpus=1).__class__(cpu_cores=1, devices=Inventory.fake(gpus=1).devices), (Load(),))
    (drawn,) = (device_html(choice) for choice in device_choices(RunConfig(), place))
    assert "16.0 GiB" in drawn
    assert "busy" not in drawn
    assert "role=" not in drawn
    assert "None" not in cpu_html(Inventory(cpu_cores=1), CpuLoad())


def test_names_cannot_break_the_page():
    assert "<script" not in remarks_html(["<script>"])
    assert "<script" not in code_html("<script>")
    assert "<script" not in verdict_html("", "<script>")
    assert remarks_html([]) == ""


def test_colours_are_the_front_ends():
    place = machine(gpus=["T4", "P100"], full=[0])
    drawn = still_html(first_choice(place), place, Call(max), CpuLoad(50))
    assert drawn.count("☑") == 1
    assert "notebook_launcher(max, devices=(0,))" in drawn
    assert "not possible: bf16" in drawn
    bare = re.sub(r"var\(--jp-[\w-]+,[^()]*(\([^)]*\))?\)", "", drawn)
    assert re.findall(r"#[0-9a-f]{3,6}\b", bare) == [], "a fixed colour is wrong in one of the themes"
    assert "http" not in drawn
