"""Scripts written for Hugging Face Accelerate, run by it and, with only the import changed, by this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.frameworks.launches import needs

pytestmark = [pytest.mark.frameworks, needs("accelerate")]

ROOT = Path(__file__).parents[2]
PACKAGES = ("accelerate", "notebook_accel")

PROBLEM = """
import json, os, sys, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def rounded(value):
    if isinstance(value, torch.Tensor):
        value = value.detach().float().tolist()
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value

def give(**found):
    rank = os.environ["RANK"]
    with open(os.path.join(sys.argv[1], f"rank{rank}.json"), "w") as file:
        json.dump({name: rounded(value) for name, value in found.items()}, file)

def make_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

def make_data(samples):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(samples, 4, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True) + torch.arange(samples)[:, None] / samples)

def parameters_of(model):
    return [parameter.detach().flatten() for parameter in model.parameters()]
"""

LOOP = """
from {package} import Accelerator
from {package}.utils import DataLoaderConfiguration, set_seed

set_seed(1)
accelerator = Accelerator(cpu=True, {arguments})
model = make_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.97 ** step)
train = DataLoader(make_data({samples}), batch_size=8)
evaluate = DataLoader(make_data(27), batch_size=8)
model, optimizer, train, evaluate, schedule = accelerator.prepare(model, optimizer, train, evaluate, schedule)

steps, rates, norms = [], [], []
for epoch in range(2):
    model.train()
    for x, y in train:
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norms.append(float(accelerator.clip_grad_norm_(model.parameters(), 1.0)))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        steps.append(accelerator.sync_gradients)
        rates.append(schedule.get_last_lr()[0])
    model.eval()
    seen = []
    for x, y in evaluate:
        with torch.no_grad():
            predictions = model(x)
        predictions, references = accelerator.gather_for_metrics((predictions, y))
        seen.append(references)
    accelerator.wait_for_everyone()

give(
    steps=steps, rates=rates, norms=norms, length=len(train), seen=torch.cat(seen).flatten().sort().values,
    parameters=parameters_of(accelerator.unwrap_model(model)), skipped=accelerator.optimizer_step_was_skipped,
    precision=accelerator.mixed_precision, processes=accelerator.num_processes, rank=accelerator.process_index,
    state=[accelerator.is_main_process, accelerator.is_local_main_process, accelerator.is_last_process],
    kind=str(accelerator.distributed_type).split(".")[-1], output=str(model(x).dtype),
)
accelerator.end_training()
"""

VERBS = """
from {package} import Accelerator, DistributedType, PartialState
from {package}.logging import get_logger
from {package}.utils import broadcast, broadcast_object_list, concatenate, gather_object, send_to_device, tqdm

accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
logger = get_logger(__name__)
logger.info("on the main process", main_process_only=True)

nested = {{"a": torch.full((2,), float(rank)), "b": [torch.tensor([[rank, 1]])]}}
gathered = accelerator.gather(nested)
padded = accelerator.pad_across_processes(torch.ones(2 + rank, 2), dim=0, pad_index=-1)
with accelerator.split_between_processes(list(range(5)), apply_padding=True) as part:
    parts = accelerator.gather(torch.tensor(part))
with accelerator.split_between_processes(["x", "y", "z"]) as words:
    words = list(words)
with accelerator.main_process_first():
    first = rank

@accelerator.on_main_process
def on_main():
    return 1

@accelerator.on_process(process_index=1)
def on_one():
    return 2

if rank == 1:
    accelerator.set_trigger()
bars = list(tqdm(range(2), disable=True))
give(
    a=gathered["a"], b=gathered["b"][0], padded=padded, parts=parts, words=words, first=first,
    added=accelerator.reduce(torch.tensor([rank + 1.0]), reduction="sum"),
    mean=accelerator.reduce(torch.tensor([rank + 1.0]), reduction="mean"),
    sent=broadcast(torch.tensor([rank + 4.0]), from_process=1), objects=gather_object([rank, "r"]),
    listed=broadcast_object_list([rank, {{"r": rank}}]), joined=concatenate([torch.ones(1), torch.zeros(1)]),
    moved=send_to_device([torch.ones(1)], accelerator.device), triggered=accelerator.check_trigger(),
    again=accelerator.check_trigger(), on_main=on_main(), on_one=on_one(), bars=bars,
    several=accelerator.distributed_type != DistributedType.NO, state=PartialState().process_index,
)
"""

CHECKPOINT = """
from {package} import Accelerator
from {package}.utils import ProjectConfiguration

class Counter:
    def __init__(self):
        self.count = 0

    def state_dict(self):
        return {{"count": self.count}}

    def load_state_dict(self, state):
        self.count = state["count"]

project = ProjectConfiguration(project_dir=sys.argv[1], automatic_checkpoint_naming=True, total_limit=2)
accelerator = Accelerator(cpu=True, project_config=project)
model = make_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
train = DataLoader(make_data(32), batch_size=8)
model, optimizer, train, schedule = accelerator.prepare(model, optimizer, train, schedule)
counter = Counter()
accelerator.register_for_checkpointing(counter)

def epoch():
    for x, y in train:
        accelerator.backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        counter.count += 1

for _ in range(3):
    epoch()
    accelerator.save_state()
saved = parameters_of(accelerator.unwrap_model(model))
epoch()
accelerator.load_state(os.path.join(sys.argv[1], "checkpoints", "checkpoint_2"))
loaded = parameters_of(accelerator.unwrap_model(model))
accelerator.save_model(model, os.path.join(sys.argv[1], "model"))
accelerator.wait_for_everyone()
folder = os.path.join(sys.argv[1], "checkpoints")
give(
    saved=saved, loaded=loaded, count=counter.count, rate=schedule.get_last_lr()[0], folders=sorted(os.listdir(folder)),
    files=sorted(set(os.listdir(os.path.join(folder, "checkpoint_2"))) - {{"manifest.json"}}),
    model=sorted(os.listdir(os.path.join(sys.argv[1], "model"))),
)
"""


def ran(folder: Path, package: str, script: str, ranks: int = 2, **words: object) -> list[dict[str, Any]]:
    """Run a script of two ranks by torchrun, and give what each found."""
    folder = folder / package
    folder.mkdir()
    (folder / "script.py").write_text(PROBLEM + script.format(package=package, **words))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, "script.py", str(folder)],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("arguments", "samples"),
    [
        ("", 64),
        ("gradient_accumulation_steps=2", 64),
        ("dataloader_config=DataLoaderConfiguration(split_batches=True)", 64),
        ("gradient_accumulation_steps=2, dataloader_config=DataLoaderConfiguration(split_batches=True)", 64),
        ('mixed_precision="bf16"', 64),
        ("step_scheduler_with_optimizer=False", 64),
        ("dataloader_config=DataLoaderConfiguration(even_batches=True)", 52),
    ],
)
def test_a_loop_trains_as_before(tmp_path: Path, arguments: str, samples: int):
    before, after = (ran(tmp_path, package, LOOP, arguments=arguments, samples=samples) for package in PACKAGES)
    tolerance = 2e-3 if "bf16" in arguments else 2e-5
    for theirs, ours in zip(before, after, strict=True):
        assert list(ours) == list(theirs)
        for name in theirs:
            if name in ("parameters", "norms", "seen"):
                flat = [pytest.approx(row, abs=tolerance) for row in theirs[name]]
                assert ours[name] == flat, name
            else:
                assert ours[name] == pytest.approx(theirs[name]), name


def test_verbs_give_what_they_gave(tmp_path: Path):
    before, after = (ran(tmp_path, package, VERBS) for package in PACKAGES)
    assert after == before


def test_checkpoints_lie_where_they_lay(tmp_path: Path):
    before, after = (ran(tmp_path, package, CHECKPOINT) for package in PACKAGES)
    for theirs, ours in zip(before, after, strict=True):
        assert ours["loaded"] == ours["saved"]
        for name in theirs:
            expected = [pytest.approx(row, abs=1e-5) for row in theirs[name]] if name in ("saved", "loaded") else None
            assert ours[name] == (expected or theirs[name]), name
