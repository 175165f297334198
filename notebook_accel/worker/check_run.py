"""What ``notebook-accel test`` runs on every rank: is this world one that trains right."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.operations import gather_object

_SAMPLES_PER_RANK = 32
_BATCH = 4
_TOLERANCE = 1e-5  # of sums whose order depends on the number of ranks
_LEARNING_RATE = 0.1

Check = Callable[[Accelerator], str]


def world_is(accelerator: Accelerator, ranks: str, device_kind: str) -> str:
    """Compare with what was launched; give what is wrong, "" for nothing.

    Args:
        accelerator: of the run.
        ranks: how many there are to be.
        device_kind: what they are to compute on.
    """
    found = str(accelerator.num_processes), accelerator.device.type
    return "" if found == (ranks, device_kind) else f"Accelerator() has {found}, not {(ranks, device_kind)}"


def ranks_add_up(accelerator: Accelerator) -> str:
    """Reduce over the ranks; give what is wrong, "" for nothing. Collective: all ranks must call this."""
    number = torch.tensor([accelerator.process_index + 1.0], device=accelerator.device)
    found = float(accelerator.reduce(number, "sum"))
    expected = accelerator.num_processes * (accelerator.num_processes + 1) / 2
    return "" if found == expected else f"the sum is {found}, not {expected}"


def ranks_are_gathered(accelerator: Accelerator) -> str:
    """Gather over the ranks; give what is wrong, "" for nothing. Collective: all ranks must call this."""
    found = accelerator.gather(torch.tensor([accelerator.process_index], device=accelerator.device)).tolist()
    expected = list(range(accelerator.num_processes))
    return "" if found == expected else f"the ranks are {found}, not {expected}"


def training_is_that_of_one_process(accelerator: Accelerator) -> str:
    """Train in fp32 with the ranks and alone; give what is wrong, "" for nothing. Collective: all ranks must call this.

    Args:
        accelerator: of the run.
    """
    together = Accelerator(mixed_precision="no")
    model, data = _model_and_data(together.num_processes)
    loader = DataLoader(data, batch_size=_BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)
    model, optimizer, loader = together.prepare(model, optimizer, loader)
    for x, y in loader:
        together.backward(nn.functional.mse_loss(model(x), y))
        optimizer.step()
        optimizer.zero_grad()

    alone, _ = _model_and_data(together.num_processes)
    alone.to(accelerator.device)
    optimizer = torch.optim.SGD(alone.parameters(), lr=_LEARNING_RATE)
    for x, y in DataLoader(data, batch_size=_BATCH * together.num_processes):
        loss = nn.functional.mse_loss(alone(x.to(accelerator.device)), y.to(accelerator.device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()
        optimizer.zero_grad()
    wrong = [each for each in _differences(together.unwrap_model(model), alone) if not each <= _TOLERANCE]  # or NaN
    return f"weights differ by {max(wrong):.1e}" if wrong else ""


def precision_works(accelerator: Accelerator) -> str:
    """Take a step in the run's precision; give what is wrong, "" for nothing. Collective: all ranks must call this."""
    model, data = _model_and_data(accelerator.num_processes)
    optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)
    model, optimizer = accelerator.prepare(model, optimizer)
    x, y = (each.to(accelerator.device) for each in data[:_BATCH])
    loss = nn.functional.mse_loss(model(x), y)
    accelerator.backward(loss)
    optimizer.step()
    value = float(loss.detach())
    return "" if math.isfinite(value) else f"the loss is {value}"


CHECKS: tuple[tuple[str, Check], ...] = (
    ("ranks add up", ranks_add_up),
    ("ranks are gathered", ranks_are_gathered),
    ("training is that of one process", training_is_that_of_one_process),
    ("a step in the run's precision", precision_works),
)


def main(ranks: str, device_kind: str) -> int:
    """Make every check and print a verdict on each; give the exit code. Collective: all ranks must call this.

    Args:
        ranks: how many were launched.
        device_kind: what on.
    """
    return verdict((("the world is the one launched", lambda a: world_is(a, ranks, device_kind)), *CHECKS))


def verdict(checks: Sequence[tuple[str, Check]]) -> int:
    """Make checks and print what is wrong on which rank; give the exit code. Collective: all ranks must call this.

    Args:
        checks: by their names.
    """
    accelerator = Accelerator()
    devices = gather_object([f"{accelerator.process_index} on {accelerator.device}"])
    accelerator.print(f"ranks: {', '.join(devices)}; mixed precision: {accelerator.mixed_precision}")
    failed = 0
    for name, check in checks:
        problem = check(accelerator)
        wrong = [f"rank {rank}: {each}" for rank, each in enumerate(gather_object([problem])) if each]
        accelerator.print(f"{'FAILED' if wrong else 'ok'}: {'; '.join([name, *wrong])}")
        failed += bool(wrong)
    accelerator.print(f"{failed} of {len(checks)} checks failed" if failed else "all checks passed")
    accelerator.end_training()
    return 1 if failed else 0


def _model_and_data(ranks: int) -> tuple[nn.Module, TensorDataset]:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(_SAMPLES_PER_RANK * ranks, 4, generator=generator)
    return model, TensorDataset(x, x.square().sum(1, keepdim=True))


def _differences(first: nn.Module, second: nn.Module) -> Iterator[float]:
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        yield float((one - other).detach().abs().max())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
