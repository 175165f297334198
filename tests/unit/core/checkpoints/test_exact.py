"""A run that goes on from a checkpoint ends bit for bit as one that was never stopped."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel import Accelerator, DataLoaderConfiguration, ProjectConfiguration
from notebook_accel.core.runtime import Runtime, current
from tests.ranks import RunOnRanks

pytestmark = pytest.mark.usefixtures("handler_of_dead_workers")
SAMPLES, BATCH, EPOCHS = 22, 2, 3


@dataclass(frozen=True)
class Case:
    """How a run trains.

    Attributes:
        stop_at: micro-batch after which the checkpoint is saved, and the run ends.
    """

    workers: int = 0
    persistent: bool = False
    accumulate: int = 1
    seedable: bool = False
    precision: str = "no"
    sums: bool = False
    block: bool = True
    stop_at: int = 7


CASES = {
    "plain": Case(),
    "between epochs": Case(stop_at=11),
    "workers": Case(workers=2, persistent=True),
    "seedable": Case(seedable=True, workers=2),
    "in a window": Case(accumulate=3, stop_at=8),
    "in a window of sums": Case(accumulate=3, sums=True, stop_at=7),
    "fp16": Case(precision="fp16", stop_at=9),
    "in the background": Case(block=False, accumulate=3, stop_at=10),
}


class Counter:
    """Something that the user registers."""

    def __init__(self) -> None:
        self.count = 0
        self.seen = np.zeros(2, dtype=np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.seen = state["count"], np.array(state["seen"])


@dataclass
class Run:
    """All that a training function holds."""

    case: Case
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    schedule: Any
    loader: Any
    counter: Counter

    def epoch(self, budget: int, trace: list[Any]) -> int:
        """Train until the epoch or ``budget`` is over; give how many micro-batches that took."""
        done = 0
        for inputs, targets in self.loader:
            with self.accelerator.accumulate(self.model):
                noise = random.random() + float(torch.rand(()))
                noise += np.random.random()  # noqa: NPY002 - the state that is kept
                error = (self.model(inputs).squeeze(1) - targets).abs() * noise
                if self.case.sums:
                    self.accelerator.backward(error.sum(), num_items=len(error))
                else:
                    self.accelerator.backward(error.mean())
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
            self.counter.count += 1
            trace.append((inputs[:, 0].tolist(), noise, self.loader.epoch))
            done += 1
            if done == budget:
                return done
        return done


def made(case: Case, folder: str, seed: int) -> Run:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the same
    accelerator = Accelerator(
        project_config=ProjectConfiguration(project_dir=folder, automatic_checkpoint_naming=True),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=case.seedable),
        gradient_accumulation_steps=case.accumulate,
        mixed_precision=case.precision,
    )
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand((SAMPLES * accelerator.num_processes, 3), generator=generator)
    loader = DataLoader(
        TensorDataset(inputs, inputs.sum(1)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=case.workers,
        persistent_workers=case.persistent,
        multiprocessing_context="fork" if case.workers else None,
    )
    counter = Counter()
    accelerator.register_for_checkpointing(counter)
    return Run(case, accelerator, *accelerator.prepare(model, optimizer, schedule, loader), counter)


def end_of(run: Run) -> dict[str, Any]:
    state = run.optimizer.state_dict()["state"]
    return {
        "model": run.accelerator.get_state_dict(run.model),
        "moments": {f"{key}.{name}": value for key, values in state.items() for name, value in values.items()},
        "rate": run.schedule.get_last_lr(),
        "count": run.counter.count,
        "scale": None if run.accelerator.scaler is None else run.accelerator.scaler.get_scale(),
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second)


def check(case: Case, folder: str) -> None:
    whole, expected = made(case, f"{folder}/whole", 5), []
    for _ in range(EPOCHS):
        whole.epoch(10**9, expected)
    stopped, trace = made(case, folder, 5), []
    while (left := case.stop_at - len(trace)) > 0:
        stopped.epoch(left, trace)
    stopped.accelerator.save_state(block=case.block)
    stopped.accelerator.wait_for_checkpoint()
    del stopped
    resumed = made(case, folder, 99)
    resumed.accelerator.load_state()
    while resumed.loader.epoch < EPOCHS:
        resumed.epoch(10**9, trace)
    assert trace == expected
    one, other = end_of(resumed), end_of(whole)
    assert {name: one[name] for name in one if not same(one[name], other[name])} == {}, other


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_process_goes_on_exactly(runtime: Runtime, tmp_path: Path, case: Case) -> None:
    check(case, str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", range(1, 33, 2))
def test_one_process_goes_on_from_anywhere(runtime: Runtime, tmp_path: Path, stop_at: int) -> None:
    check(replace(CASES["in a window"], stop_at=stop_at), str(tmp_path))


# ---- two ranks


def ranks_go_on_exactly() -> None:
    backend = current().backend
    for case in CASES.values():
        folder = backend.broadcast_object(tempfile.mkdtemp())
        check(case, folder)


def test_two_ranks_go_on_exactly(run_on_ranks: RunOnRanks) -> None:
    run_on_ranks(ranks_go_on_exactly)
