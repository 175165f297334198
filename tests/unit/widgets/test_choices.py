from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_accel.config import PRECISIONS, START_METHODS, RunConfig
from notebook_accel.hardware import Device, Inventory, Unavailable
from notebook_accel.hardware.host import Host
from notebook_accel.hardware.torch_build import TorchBuild
from notebook_accel.widgets.choices import (
    Machine,
    chosen_devices,
    cpu_choice,
    device_choices,
    first_choice,
    on_cpu,
    on_devices,
    precisions,
    presets,
    problem_of,
    ranks_of,
    remarks,
    restored,
    start_methods,
    with_ranks,
)

NO_TORCH = TorchBuild()


def machine(**facts: object) -> Machine:
    inventory = Inventory.fake(**facts)
    return Machine(inventory, inventory.loads)


CPU_ONLY = machine(cpu_cores=8)
FOUR = machine(gpus=4)
ONE_FULL = machine(gpus=4, full=[2])
ALL_FULL = machine(gpus=2, full=[0, 1])
MIXED = machine(gpus=["T4", "T4", "P100"], exclusive=[1])
CHIPS = machine(tpus=8)
CPU_BUILD = machine(gpus=2, torch=TorchBuild(version="2.9.0+cpu"))
APPLE = Machine(Inventory(cpu_cores=8, devices=(Device(kind="mps", index=0, name="Apple GPU", selector="0"),)))


def pick(options: list, label: str):
    return next(option for option in options if option.label == label)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (CPU_ONLY, {"num_processes": 2, "devices": "auto"}),
        (machine(cpu_cores=1), {"num_processes": 1, "devices": "auto"}),
        (FOUR, {"num_processes": 4, "devices": "auto"}),
        (machine(gpus=1), {"num_processes": 1, "devices": "auto"}),
        (ONE_FULL, {"num_processes": None, "devices": (0, 1, 3)}),
        (ALL_FULL, {"num_processes": 2, "devices": "auto"}),
        (MIXED, {"num_processes": None, "devices": (0,)}),
        (CHIPS, {"num_processes": 8, "devices": "auto"}),
        (CPU_BUILD, {"num_processes": 2, "devices": "cpu"}),
        (APPLE, {"num_processes": 1, "devices": "auto"}),
    ],
    ids=["cpu", "one core", "four", "one", "one full", "all full", "mixed", "chips", "cpu build", "apple"],
)
def test_there_is_a_choice_before_anybody_has_chosen(place: Machine, expected: dict):
    config = first_choice(place)
    assert {name: getattr(config, name) for name in expected} == expected
    assert problem_of(config, place) == ""


def test_one_and_three_of_four():
    gpus = FOUR.inventory.devices
    assert on_devices(RunConfig(), FOUR, [gpus[3], gpus[1]]) == RunConfig(devices=(1, 3))
    assert on_devices(RunConfig(seed=1), FOUR, gpus) == RunConfig(num_processes=4, seed=1)
    assert on_devices(RunConfig(), FOUR, []) == RunConfig(num_processes=4, devices="cpu")


def test_what_runs_of_this_notebook_hold_is_left_alone():
    held = replace(FOUR, held=frozenset({"0", "2"}))
    assert first_choice(held) == RunConfig(devices=(1, 3))
    assert "a run of this notebook computes on it" in device_choices(first_choice(held), held)[0].warning
    assert "GPU 0 by a run of this notebook" in problem_of(RunConfig(num_processes=4), held)
    assert device_choices(first_choice(held), held)[0].option.why_not != "", "it cannot be added"


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (RunConfig(), [0, 1, 2, 3]),
        (RunConfig(num_processes=2), [0, 1]),
        (RunConfig(devices=(3, 1)), [3, 1]),
        (RunConfig(devices="cpu"), []),
        (RunConfig(devices=(7,)), []),
        (RunConfig(devices="tpu"), []),
    ],
)
def test_which_devices_a_config_means(config: RunConfig, numbers: list[int]):
    assert [device.index for device in chosen_devices(config, FOUR)] == numbers


def test_a_device_is_chosen_and_left_out():
    choices = device_choices(RunConfig(devices=(1, 3)), FOUR)
    assert [choice.option.is_chosen for choice in choices] == [False, True, False, True]
    assert choices[0].option.leads_to == RunConfig(devices=(0, 1, 3))
    assert choices[3].option.leads_to == RunConfig(devices=(1,))
    assert [choice.option.why_not for choice in choices] == [""] * 4
    (last,) = (choice for choice in device_choices(RunConfig(devices=(1,)), FOUR) if choice.option.is_chosen)
    assert last.option.leads_to == RunConfig(devices="cpu", num_processes=4), "without a device there is the CPU"


def test_what_cannot_be_used_cannot_be_chosen_but_left_out():
    choices = device_choices(RunConfig(devices=(0, 2)), MIXED)
    assert [bool(choice.why_unusable) for choice in choices] == [False, True, True]
    assert "no kernels" in choices[2].why_unusable
    assert choices[2].option.why_not == "", "what is chosen can be left out"
    assert "one process use it" in choices[1].option.why_not
    assert "no kernels" in problem_of(RunConfig(devices=(0, 2)), MIXED)


def test_a_chip_is_chosen_with_all_others():
    choices = device_choices(first_choice(CHIPS), CHIPS)
    assert all(choice.option.is_chosen for choice in choices)
    assert {choice.option.why_not for choice in choices} == {
        "num_processes=7, but torch_xla starts one process for each chip, which is 8"
    }
    assert pick(presets(first_choice(CHIPS), CHIPS), "one device").leads_to.num_processes == 1


def test_a_tpu_is_not_offered_what_it_cannot_compute_in():
    options = precisions(first_choice(CHIPS), CHIPS)
    assert {option.label: bool(option.why_not) for option in options} == {"32 bit": False, "bf16": False, "fp16": True}


def test_the_cpu_stands_in_for_devices():
    option = cpu_choice(first_choice(FOUR), FOUR)
    assert (option.is_chosen, option.leads_to) == (False, RunConfig(num_processes=4, devices="cpu"))
    back = cpu_choice(option.leads_to, FOUR)
    assert (back.is_chosen, back.leads_to) == (True, RunConfig(num_processes=4))
    assert "nothing else" in cpu_choice(first_choice(CPU_ONLY), CPU_ONLY).why_not
    assert "none of the devices" in cpu_choice(first_choice(CPU_BUILD), CPU_BUILD).why_not


@pytest.mark.parametrize(
    ("place", "labels", "chosen"),
    [
        (CPU_ONLY, ["everything", "one process", "CPU rehearsal, 2 ranks"], [True, False, False]),
        (FOUR, ["everything", "one device", "CPU rehearsal, 4 ranks"], [True, False, False]),
        (ONE_FULL, ["everything", "one device", "CPU rehearsal, 4 ranks"], [False, False, False]),
        (machine(gpus=1), ["everything", "one device", "CPU rehearsal, 2 ranks"], [True, False, False]),
        (CPU_BUILD, ["everything", "one device", "CPU rehearsal, 2 ranks"], [False, False, True]),
    ],
)
def test_presets(place: Machine, labels: list[str], chosen: list[bool]):
    options = presets(first_choice(place), place)
    assert [option.label for option in options] == labels
    assert [option.is_chosen for option in options] == chosen


def test_presets_do_what_they_say():
    options = presets(first_choice(ONE_FULL), ONE_FULL)
    assert pick(options, "everything").leads_to == RunConfig(num_processes=4), "also what somebody else uses"
    assert pick(options, "one device").leads_to == RunConfig(devices=(0,))
    assert pick(presets(RunConfig(), machine(gpus=2, full=[0])), "one device").leads_to == RunConfig(devices=(1,))
    assert {option.why_not for option in presets(first_choice(CPU_BUILD), CPU_BUILD)} == {
        "none of the devices can be used",
        "",
    }


def test_precisions_that_a_device_has_not():
    options = precisions(first_choice(MIXED), MIXED)
    assert [(option.label, bool(option.why_not)) for option in options] == [
        ("32 bit", False),
        ("bf16", True),
        ("fp16", False),
    ]
    assert not any(option.why_not for option in precisions(first_choice(FOUR), FOUR))
    assert not any(option.why_not for option in precisions(on_cpu(RunConfig(), MIXED), MIXED))
    assert "no bfloat16" in problem_of(RunConfig(devices=(0,), mixed_precision="bf16"), MIXED)


def test_start_methods_are_those_that_the_plan_takes(monkeypatch: pytest.MonkeyPatch):
    options = start_methods(first_choice(CPU_ONLY), CPU_ONLY)
    assert [option.label for option in options] == list(START_METHODS)
    assert [option.is_chosen for option in options] == [True, False, False, False]
    assert pick(options, "forkserver").leads_to.start_method is None, "the default is not said"
    assert "one rank, not 2" in pick(options, "inline").why_not
    alone = start_methods(with_ranks(first_choice(CPU_ONLY), 1), CPU_ONLY)
    assert not any(option.why_not for option in alone)
    chips = start_methods(first_choice(CHIPS), CHIPS)
    assert [option.label for option in chips if option.is_chosen] == ["fork"]
    assert pick(chips, "forkserver").why_not == "on this device it comes to fork"
    monkeypatch.setattr(sys, "platform", "darwin")
    elsewhere = start_methods(first_choice(APPLE), APPLE)
    assert [option.label for option in elsewhere if option.is_chosen] == ["spawn"]
    assert "needs Linux" in pick(elsewhere, "fork").why_not


def test_ranks_follow_the_devices_and_are_free_on_the_cpu():
    assert ranks_of(first_choice(ONE_FULL), ONE_FULL) == (3, "one rank on each device that is ticked")
    assert ranks_of(on_cpu(RunConfig(), FOUR, 6), FOUR) == (6, "")
    assert ranks_of(RunConfig(num_processes=1, start_method="inline"), CPU_ONLY)[1] == (
        'start method "inline" has one rank'
    )
    assert ranks_of(RunConfig(devices=(9,)), FOUR) == (1, "")


def test_remarks():
    inventory = replace(
        FOUR.inventory,
        cpu_cores=1,
        torch=NO_TORCH,
        unavailable=(Unavailable(name="NVIDIA GPUs", reason="nvidia-smi failed"),),
        host=Host(shared_memory_free_bytes=64 << 20),
    )
    said = list(remarks(RunConfig(devices="cpu", num_processes=2, grace_seconds=9), Machine(inventory)))
    words = ["not installed", "NVIDIA GPUs: nvidia-smi failed", "64 MiB of shared", "grace_seconds=9", "share 1 core:"]
    assert len(said) == len(words)
    assert all(word in text for word, text in zip(words, said, strict=True))
    assert list(remarks(first_choice(CPU_ONLY), CPU_ONLY)) == []
    assert "6 ranks share 4 cores" in next(remarks(on_cpu(RunConfig(), FOUR, 6), FOUR))


@pytest.mark.parametrize(
    ("config", "place", "expected"),
    [
        (RunConfig(devices=(1, 3), seed=5), FOUR, RunConfig(devices=(1, 3), seed=5)),
        (RunConfig(devices=(1, 3), seed=5), machine(gpus=2), RunConfig(num_processes=2, seed=5)),
        (
            RunConfig(devices=(1, 3), mixed_precision="bf16", start_method="spawn"),
            CPU_ONLY,
            RunConfig(num_processes=2, mixed_precision="bf16", start_method="spawn"),
        ),
        (RunConfig(num_processes=4, mixed_precision="bf16", seed=2), MIXED, RunConfig(devices=(0,), seed=2)),
        (
            RunConfig(num_processes=1, start_method="inline", seed=2),
            FOUR,
            RunConfig(num_processes=1, start_method="inline", seed=2),
        ),
        (
            RunConfig(num_processes=1, devices=(0,), start_method="inline"),
            ONE_FULL,
            RunConfig(num_processes=1, devices=(0,), start_method="inline"),
        ),
        (RunConfig(num_processes=8, devices="tpu"), ONE_FULL, RunConfig(devices=(0, 1, 3))),
    ],
)
def test_an_earlier_choice_is_kept_as_far_as_it_is_possible(config: RunConfig, place: Machine, expected: RunConfig):
    assert restored(config, place) == expected


MACHINES = [CPU_ONLY, FOUR, ONE_FULL, ALL_FULL, MIXED, CHIPS, CPU_BUILD, APPLE]


@given(place=st.sampled_from(MACHINES), presses=st.lists(st.integers(0, 20), max_size=8))
def test_whatever_is_pressed_can_be_launched(place: Machine, presses: list[int]):
    config = first_choice(place)
    for press in presses:
        options = [
            *(choice.option for choice in device_choices(config, place)),
            cpu_choice(config, place),
            *presets(config, place),
            *precisions(config, place),
            *start_methods(config, place),
        ]
        possible = [option for option in options if not option.why_not]
        config = possible[press % len(possible)].leads_to
        # A device that lacks the chosen precision is the one thing that may be chosen and not launched: it is said.
        problem = problem_of(config, place)
        assert problem == "" or "no bfloat16" in problem or "cannot be used" in problem
        assert sum(option.is_chosen for option in precisions(config, place)) == 1
        assert sum(option.is_chosen for option in start_methods(config, place)) == 1
        assert len(presets(config, place)) == 3
    assert len(precisions(config, place)) == len(PRECISIONS)
