"""Training on 1, 2 and 4 ranks, in any precision and accumulation, gives what one process in plain PyTorch gives."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.handlers import GradScalerKwargs
from notebook_accel.core.runtime import Runtime, current
from tests.ranks import RunOnRanks

SAMPLES, BATCH, EPOCHS = 96, 8, 2
# How far the parameters may lie apart: ranks add up in another order; 16-bit operations round, and autocast rounds
# the ranks' smaller batches otherwise than the whole one.
TOLERANCES = {"no": 2e-6, "bf16": 5e-3, "fp16": 1e-3}
SCALE = 256.0  # small enough for every step: which one overflows depends on the order of additions
CASES = tuple(itertools.product(("no", "bf16", "fp16"), (1, 3), (False, True)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(SAMPLES, 3, generator=generator), torch.randn(SAMPLES, 1, generator=generator))


def plain(precision: str, steps: int, batch_size: int) -> list[Tensor]:
    """What a loop without any helper makes of the same global batches."""
    model = net()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=precision == "fp16")
    batches = list(DataLoader(data(), batch_size=batch_size))
    for _ in range(EPOCHS):
        for start in range(0, len(batches), steps):
            window = batches[start : start + steps]
            for x, y in window:
                with torch.autocast("cpu", dtype, enabled=precision != "no"):
                    predicted = model(x)
                scaler.scale(mse_loss(predicted.float(), y) / len(window)).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


def prepared(precision: str, steps: int, split: bool, batch_size: int) -> list[Tensor]:
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=steps,
        split_batches=split,
        kwargs_handlers=[GradScalerKwargs(init_scale=SCALE)],
    )
    model = net()
    model, optimizer, loader = accelerator.prepare(
        model, SGD(model.parameters(), lr=0.05, momentum=0.9), DataLoader(data(), batch_size=batch_size)
    )
    for _ in range(EPOCHS):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(mse_loss(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    assert not accelerator.optimizer_step_was_skipped
    return [parameter.detach() for parameter in accelerator.unwrap_model(model).parameters()]


def all_cases() -> dict[Any, float]:
    """How far each case lies from the plain loop, and that training moved at all and ended alike on all ranks."""
    found = {}
    untrained = [parameter.detach() for parameter in net().parameters()]
    backend = current().backend
    ranks = backend.world.world_size
    for precision, steps, split in CASES:
        whole = BATCH if split else BATCH * ranks
        trained = prepared(precision, steps, split, BATCH)
        expected = plain(precision, steps, whole)
        found[precision, steps, split] = max(float((a - b).abs().max()) for a, b in zip(trained, expected, strict=True))
        assert max(float((a - b).abs().max()) for a, b in zip(trained, untrained, strict=True)) > 0.01
        others = backend.gather_object(trained)
        assert all(torch.equal(a, b) for other in others for a, b in zip(trained, other, strict=True))
    return found


def check(found: dict[Any, float], ranks: int) -> None:
    assert len(found) == len(CASES)
    for case, distance in found.items():
        assert distance <= TOLERANCES[case[0]], (ranks, case, distance)


def test_one_process_is_exact(runtime: Runtime) -> None:
    assert set(all_cases().values()) == {0.0}


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_ranks(ranks: int, run_on_ranks: RunOnRanks) -> None:
    for found in run_on_ranks(all_cases, ranks=ranks, timeout_seconds=100):
        check(found["all_cases"], ranks)
