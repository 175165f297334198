"""The Trainer of transformers in the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.launches import Launches, needs

pytestmark = [pytest.mark.frameworks, pytest.mark.slow, needs("transformers", "accelerate")]

TRAIN = """
import torch

class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        numbers = torch.randint(0, 50, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": numbers, "labels": numbers}

def make_trainer(folder, steps):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    sizes = {"vocab_size": 50, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    arguments = TrainingArguments(
        folder, ARGUMENTS max_steps=steps, save_steps=2, per_device_train_batch_size=4, learning_rate=0.01,
        dataloader_num_workers=2, report_to=[],
    )
    return Trainer(model, arguments, train_dataset=Tokens(), eval_dataset=Tokens())

def train(folder, steps, resume):
    trainer = make_trainer(folder, steps)
    trained = trainer.train(resume_from_checkpoint=resume)
    loss = trainer.evaluate()["eval_loss"]
    weights = [round(parameter.double().sum().item(), 6) for parameter in trainer.model.parameters()]
    place = trainer.args.world_size, trainer.args.process_index, trainer.args.device.type
    return place, trained.global_step, loss, weights
"""


def check_trained(run: list[tuple[object, ...]], steps: int) -> None:
    assert [values[:2] for values in run] == [((2, rank, "cpu"), steps) for rank in range(2)]
    (_, _, first_loss, first_weights), (_, _, second_loss, second_weights) = run
    assert first_loss == second_loss
    assert first_weights == second_weights, "the ranks began with other weights and saw other data"


@pytest.mark.parametrize("arguments", ["", "use_cpu=True,"])
def test_a_trainer_trains(launches: Launches, tmp_path: Path, arguments: str):
    runs = launches.three(TRAIN.replace("ARGUMENTS", arguments), more=f", args=({str(tmp_path)!r}, 3, None)")
    for run in runs:
        check_trained(run, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]


def test_a_trainer_goes_on_from_a_checkpoint_of_an_earlier_launch(launches: Launches, tmp_path: Path):
    launches.notebook.check(TRAIN.replace("ARGUMENTS", ""))
    folder = str(tmp_path)
    launches.notebook.check(f"run = list(notebook_launcher(train, ({folder!r}, 2, None), 2))")
    check_trained(launches.values("run"), 2)
    launches.notebook.check(f"run = list(notebook_launcher(train, ({folder!r}, 4, True), 2))")
    check_trained(launches.values("run"), 4)
    assert (tmp_path / "checkpoint-4").is_dir()


def test_a_preloaded_trainer_trains(fresh_launches: Launches, tmp_path: Path):
    more = f", args=({str(tmp_path / 'out')!r}, 2, None), preload=['accelerate', 'transformers.trainer']"
    for run in fresh_launches.three(TRAIN.replace("ARGUMENTS", ""), more=more):
        check_trained(run, 2)
