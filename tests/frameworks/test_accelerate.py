"""Hugging Face Accelerate's own ``Accelerator`` in the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.launches import PROBLEM, Launches, needs, weight_of_one_process

pytestmark = [pytest.mark.frameworks, pytest.mark.slow, needs("accelerate")]

TRAIN = (
    PROBLEM
    + """
def train():
    from accelerate import Accelerator

    accelerator = Accelerator(ARGUMENTS)
    model = make_model()
    model, optimizer, loader = accelerator.prepare(model, make_optimizer(model), make_loader())
    seen = []
    for _ in range(2):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            seen += accelerator.gather_for_metrics(inputs).flatten().tolist()
    accelerator.wait_for_everyone()
    place = accelerator.num_processes, accelerator.process_index, accelerator.device.type
    return place, sorted(seen), accelerator.unwrap_model(model).weight.item()
"""
)


def check_trained(runs: list[list[object]]) -> None:
    everything = [number // 2 for number in range(32)]
    weight = pytest.approx(weight_of_one_process(), rel=1e-5)
    assert runs == [[((2, rank, "cpu"), everything, weight) for rank in range(2)]] * 3


@pytest.mark.parametrize("arguments", ["", "cpu=True"])
def test_an_accelerator_trains(launches: Launches, arguments: str):
    check_trained(launches.three(TRAIN.replace("ARGUMENTS", arguments)))


def test_an_accelerator_of_the_kernel_does_not_matter(launches: Launches):
    launches.notebook.check("import accelerate\nkernels_own = accelerate.Accelerator()")
    check_trained(launches.three(TRAIN.replace("ARGUMENTS", "")))
    assert launches.values("(kernels_own.num_processes, accelerate.Accelerator().num_processes)") == (1, 1)


def test_the_precision_of_the_launch_is_accelerates(launches: Launches):
    cell = """
def compute():
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator()
    with accelerator.autocast():
        return accelerator.mixed_precision, str(torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype)
"""
    runs = launches.three(cell, function="compute", more=', mixed_precision="bf16"')
    assert runs == [[("bf16", "torch.bfloat16")] * 2] * 3
    assert launches.three(cell, function="compute") == [[("no", "torch.float32")] * 2] * 3


def test_objects_are_gathered_and_states_saved_and_loaded(launches: Launches, tmp_path: Path):
    cell = (
        PROBLEM
        + """
def keep(folder):
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list, gather_object

    accelerator = Accelerator()
    model = accelerator.prepare(make_model())
    accelerator.save_state(folder)
    accelerator.wait_for_everyone()
    with torch.no_grad():
        model.module.weight += 5
    accelerator.load_state(folder)
    told = broadcast_object_list([accelerator.process_index + 7])
    return model.module.weight.item(), gather_object([accelerator.process_index]), told
"""
    )
    runs = launches.three(cell, function="keep", more=f", args=({str(tmp_path)!r},)")
    assert runs == [[(0.0, [0, 1], [7])] * 2] * 3
    assert (tmp_path / "model.safetensors").exists()


def test_an_interrupted_loop_ends_and_the_next_launch_trains(launches: Launches):
    launches.notebook.check(
        PROBLEM
        + """
def train_on():
    from accelerate import Accelerator

    accelerator = Accelerator()
    model = make_model()
    model, optimizer, loader = accelerator.prepare(model, make_optimizer(model), make_loader())
    while True:
        for inputs, targets in loader:
            accelerator.backward(torch.nn.functional.mse_loss(model(inputs), targets))
        accelerator.print("an epoch has passed")
"""
    )
    pressed: list[str] = []

    def press_once(text: str) -> None:
        if "an epoch has passed" in text and not pressed:
            pressed.append(text)
            launches.notebook.interrupt()

    reply = launches.notebook.run("notebook_launcher(train_on, num_processes=2)", press_once)
    assert reply.error_name == "KeyboardInterrupt", reply.error_text
    check_trained(launches.three(TRAIN.replace("ARGUMENTS", "")))
