from __future__ import annotations

import ast
import inspect
from dataclasses import replace

import pytest

from notebook_accel import notebook_launcher
from notebook_accel.config import RunConfig
from notebook_accel.hardware import Inventory
from notebook_accel.launch.job import Call
from notebook_accel.widgets.choices import Machine, first_choice, on_devices
from notebook_accel.widgets.wording import code_of, cpu_facts, impossible, picker_text, size_text


def train(*args: object, **kwargs: object) -> None:
    """Stand for the user's."""


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (RunConfig(), "notebook_launcher(train)"),
        (RunConfig(devices=(1, 3)), "notebook_launcher(train, devices=(1, 3))"),
        (RunConfig(devices=(1,)), "notebook_launcher(train, devices=(1,))"),
        (
            RunConfig(num_processes=2, mixed_precision="bf16", start_method="spawn", seed=0),
            'notebook_launcher(train, num_processes=2, mixed_precision="bf16", start_method="spawn", seed=0)',
        ),
        (RunConfig(port=8, run_id='say "a"'), """notebook_launcher(train, use_port=8, rdzv_id='say "a"')"""),
        (RunConfig(log_prefix="[${rank}] "), 'notebook_launcher(train, log_line_prefix_template="[${rank}] ")'),
        (RunConfig(hang_timeout_seconds=None), "notebook_launcher(train, hang_timeout_seconds=None)"),
        (RunConfig(grace_seconds=3), "notebook_launcher(train)"),
    ],
)
def test_the_line_of_code_says_what_is_not_the_default(config: RunConfig, code: str):
    assert code_of(config) == code


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (Call(train, (0.1,)), "notebook_launcher(train, args=(0.1,))"),
        (Call(train, (1, "a"), {"lr": [1]}), "notebook_launcher(train, args=(1, 'a'), kwargs={'lr': [1]})"),
        (Call(train, (object(),)), "notebook_launcher(train, args=args)"),
        (Call(train, ("x" * 99,), {"f": train}), "notebook_launcher(train, args=args, kwargs=kwargs)"),
        (Call(lambda: 0), "notebook_launcher(function)"),
    ],
)
def test_the_line_of_code_has_the_arguments_where_they_are_short(call: Call, code: str):
    assert code_of(RunConfig(), call) == code


def test_the_launcher_takes_every_argument_that_the_line_may_have():
    config = RunConfig(
        num_processes=2,
        mixed_precision="fp16",
        start_method="forkserver",
        devices=(0, 1),
        preload=("json",),
        seed=1,
        threads_per_rank=2,
        port=1234,
        log_prefix="x",
        logs="rank0",
        grace_seconds=2,
        returns="rank0",
        timeout_seconds=3,
        hang_timeout_seconds=4,
        hang_action="stop",
        max_restarts=5,
        by_value=("json",),
        run_id="r",
    )
    call = ast.parse(code_of(config), mode="eval").body
    assert isinstance(call, ast.Call)
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert len(given) == 17, "all but grace_seconds"
    inspect.signature(notebook_launcher).bind(train, **given)


def machine(**facts: object) -> Machine:
    inventory = Inventory.fake(**facts)
    return Machine(inventory, inventory.loads)


def test_the_picker_as_text():
    place = machine(gpus=["T4", "T4", "P100"], exclusive=[1])
    text = picker_text(first_choice(place), place)
    assert text.splitlines()[0] == "Hardware: this machine (made up), torch 2.10.0 (CUDA 12.8)"
    assert "[x] GPU 0  Tesla T4, compute capability 7.5, 14.9 of 15.0 GiB free, 0 % busy" in text
    assert "[ ] GPU 1  Tesla T4" in text
    assert "used by python (4321)" in text
    assert "cannot be used: torch 2.10.0 has no kernels for its compute capability 6.0" in text
    assert "Chosen: 1 GPU process (Tesla T4)" in text
    assert "not possible: bf16: Tesla T4 has no bfloat16 of its own" in text
    assert text.splitlines()[-1] == "Code: notebook_launcher(train, devices=(0,))"
    assert max(map(len, text.splitlines())) <= 110


def test_text_of_what_cannot_be_launched():
    place = machine(gpus=2)
    assert "Chosen: nothing that can be launched: devices=[7] names [7]" in picker_text(RunConfig(devices=(7,)), place)


def test_options_of_one_reason_are_named_together():
    place = machine(tpus=3)
    said = impossible(first_choice(place), place)
    assert "to leave out TPU 0, TPU 1, TPU 2: num_processes=2, but torch_xla starts" in said[0]
    four = machine(gpus=4)
    assert impossible(on_devices(RunConfig(), four, four.inventory.devices[:1]), four) == []


def test_sizes_and_cores():
    assert [size_text(64 << 20), size_text(3 << 30)] == ["64 MiB", "3.0 GiB"]
    assert cpu_facts(Inventory(cpu_cores=1)) == "1 core"
    inventory = Inventory.fake(cpu_cores=2)
    host = replace(inventory.host, installed_cores=8, memory_limit_bytes=32 << 30)
    text = cpu_facts(replace(inventory, host=host))
    assert text == "2 of 8 cores, 24.0 of 32.0 GiB memory free (the container's limit), 16.0 GiB shared memory free"
