"""Lightning's Fabric and Trainer, and torchmetrics, in the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.launches import PROBLEM, Launches, needs, weight_of_one_process

pytestmark = [pytest.mark.frameworks, pytest.mark.slow, needs("lightning")]

# As under torchrun, a script calls launch() itself; it finds that the processes are there and starts none.
FABRIC = (
    PROBLEM
    + """
def train():
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    fabric = Fabric(ARGUMENTS)
    fabric.launch()
    model = make_model()
    model, optimizer = fabric.setup(model, make_optimizer(model))
    loader = fabric.setup_dataloaders(make_loader())
    seen = []
    for _ in range(2):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(inputs), targets)
            fabric.backward(loss)
            optimizer.step()
            seen += fabric.all_gather(inputs).flatten().tolist()
    place = fabric.world_size, fabric.global_rank, rank_zero_only.rank
    return place, sorted(seen), model.weight.item()
"""
)

TRAINER = (
    PROBLEM
    + """
def make_module(at_step):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model()

        def training_step(self, batch, number):
            at_step(self, number)
            inputs, targets = batch
            return torch.nn.functional.mse_loss(self.model(inputs), targets)

        def configure_optimizers(self):
            return make_optimizer(self)

    return Module()

def fit(folder, at_step, **more):
    import lightning

    trainer = lightning.Trainer(accelerator="cpu", devices=2, num_nodes=1, default_root_dir=folder, **more)
    module = make_module(at_step)
    trainer.fit(module, make_loader())
    return trainer, module

def train(folder):
    trainer, module = fit(folder, lambda module, number: None, max_epochs=2, strategy="ddp")
    return trainer.world_size, trainer.global_rank, trainer.global_step, module.model.weight.item()

def fail(folder):
    def at_step(module, number):
        if module.global_rank == 1:
            raise ValueError("a bad batch")
    fit(folder, at_step, max_epochs=1)

def train_on(folder):
    fit(folder, lambda module, number: print("a step begins"), max_epochs=-1)
"""
)


def check_trained(runs: list[list[object]]) -> None:
    everything = [number // 2 for number in range(32)]
    weight = pytest.approx(weight_of_one_process(), rel=1e-5)
    assert runs == [[((2, rank, rank), everything, weight) for rank in range(2)]] * 3


@pytest.mark.parametrize("arguments", ['accelerator="cpu", devices=2, strategy="ddp"', 'accelerator="cpu", devices=2'])
def test_a_fabric_trains(launches: Launches, arguments: str):
    check_trained(launches.three(FABRIC.replace("ARGUMENTS", arguments)))


def test_a_preloaded_fabric_learns_its_rank(fresh_launches: Launches):
    cell = FABRIC.replace("ARGUMENTS", 'accelerator="cpu", devices=2')
    check_trained(fresh_launches.three(cell, more=', preload=["lightning"]'))


def check_fitted(launches: Launches, folder: Path) -> None:
    weight = pytest.approx(weight_of_one_process(), rel=1e-5)
    runs = launches.three(TRAINER, more=f", args=({str(folder)!r},)")
    assert runs == [[(2, rank, 2, weight) for rank in range(2)]] * 3


def test_a_trainer_fits_and_writes_where_it_is_told(launches: Launches, tmp_path: Path):
    check_fitted(launches, tmp_path)
    assert len(list(tmp_path.glob("**/*.ckpt"))) == 3


def test_an_exception_in_a_training_step_is_the_runs(launches: Launches, tmp_path: Path):
    launches.notebook.check(TRAINER)
    launches.notebook.check(
        f"try:\n    notebook_launcher(fail, ({str(tmp_path)!r},), 2)\n"
        "except RankFailed as failed:\n    seen = failed.rank, type(failed.exception).__name__, failed.exception.args"
    )
    assert launches.values("seen") == (1, "ValueError", ("a bad batch",))
    check_fitted(launches, tmp_path)


def test_an_interrupted_fit_ends_and_the_next_one_fits(launches: Launches, tmp_path: Path):
    launches.notebook.check(TRAINER)
    pressed: list[str] = []

    def press_once(text: str) -> None:
        if "a step begins" in text and not pressed:
            pressed.append(text)
            launches.notebook.interrupt()

    reply = launches.notebook.run(f"notebook_launcher(train_on, ({str(tmp_path)!r},), 2)", press_once)
    assert reply.error_name == "KeyboardInterrupt", reply.error_text
    check_fitted(launches, tmp_path)


@needs("torchmetrics")
def test_metrics_are_computed_over_all_ranks(launches: Launches):
    cell = """
def measure():
    import torch, torch.distributed, torchmetrics

    torch.distributed.init_process_group()
    rank = torch.distributed.get_rank()
    mean = torchmetrics.MeanMetric()
    accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
    for step in range(2):
        mean.update(torch.arange(4.0) + 10 * rank + 100 * step)
        accuracy.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 2 - rank]))
    result = mean.compute().item(), accuracy.compute().item()
    torch.distributed.destroy_process_group()
    return result
"""
    assert launches.three(cell, function="measure") == [[(56.5, 0.875)] * 2] * 3
