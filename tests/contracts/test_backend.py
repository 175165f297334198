"""What every backend promises, checked on each: one process, and two processes over gloo."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
import torch
from torch import nn

from notebook_accel.backends.base import Backend
from notebook_accel.backends.registry import choose
from notebook_accel.backends.single import SingleBackend
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError
from notebook_accel.world import World
from tests.ranks import RunOnRanks


def sum_adds_up_the_ranks(backend: Backend) -> None:
    mine = torch.tensor([1.0, 2.0]) * (backend.world.rank + 1)
    kept = mine.clone()
    factor = sum(rank + 1 for rank in range(backend.world.world_size))
    assert torch.equal(backend.all_reduce(mine), torch.tensor([1.0, 2.0]) * factor)
    assert torch.equal(mine, kept), "the argument was changed"


def mean_of_whole_numbers_is_a_fraction(backend: Backend) -> None:
    size = backend.world.world_size
    mean = backend.all_reduce(torch.tensor(backend.world.rank), "mean")
    assert mean.is_floating_point()
    assert mean.item() == (size - 1) / 2


def max_takes_the_largest(backend: Backend) -> None:
    rank, size = backend.world.rank, backend.world.world_size
    assert backend.all_reduce(torch.tensor([rank, -rank]), "max").tolist() == [size - 1, 0]


def reducing_does_not_share_memory(backend: Backend) -> None:
    mine = torch.zeros(2)
    backend.all_reduce(mine).add_(5)
    backend.all_gather(mine).add_(5)
    assert mine.tolist() == [0, 0]


def unknown_reduction_is_refused(backend: Backend) -> None:
    with pytest.raises(ConfigError, match="'median'"):
        backend.all_reduce(torch.ones(1), "median")  # type: ignore[arg-type]


def gather_gives_every_rank_in_order(backend: Backend) -> None:
    rank, size = backend.world.rank, backend.world.world_size
    gathered = backend.all_gather(torch.full((2, 3), rank))
    assert gathered.shape == (size, 2, 3)
    assert gathered[:, 0, 0].tolist() == list(range(size))


def gather_takes_every_dtype_and_layout(backend: Backend) -> None:
    rank, size = backend.world.rank, backend.world.world_size
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.complex64):
        mine = torch.arange(6).reshape(2, 3).add(rank).to(dtype)
        gathered = backend.all_gather(mine.t())
        assert gathered.dtype == dtype
        for other in range(size):
            assert torch.equal(gathered[other], torch.arange(6).reshape(2, 3).add(other).to(dtype).t())
    single = torch.arange(4, dtype=torch.float64)[2::2]  # one element, two from the next
    assert backend.all_gather(single).tolist() == [[2.0]] * backend.world.world_size
    assert backend.broadcast(single).tolist() == [2.0]
    conjugated = backend.all_gather(torch.tensor([1 + 2j]).conj())
    assert conjugated[0].tolist() == [1 - 2j]
    assert backend.all_gather(torch.tensor([1 + 2j]).conj().imag)[0].tolist() == [-2.0]  # its memory has 2.0
    assert backend.all_gather(torch.tensor(3.0)).shape == (size,)
    assert backend.all_gather(torch.empty(0, 4)).shape == (size, 0, 4)
    assert not backend.all_gather(torch.ones(1, requires_grad=True)).requires_grad


def objects_travel(backend: Backend) -> None:
    rank, size = backend.world.rank, backend.world.world_size
    assert backend.gather_object({"rank": rank}) == [{"rank": other} for other in range(size)]
    assert backend.broadcast_object(("from", rank), src=size - 1) == ("from", size - 1)
    assert backend.broadcast_object(rank) == 0


def wrapped_model_averages_gradients(backend: Backend) -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(3.0 + backend.world.rank)
    wrapped = backend.wrap_model(model)
    assert model.weight.item() == 3.0, "every rank starts with rank 0's weights"
    wrapped(torch.tensor([[1.0 + backend.world.rank]])).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.item() == (1 + backend.world.world_size) / 2


def wrapping_is_undone_and_not_repeated(backend: Backend) -> None:
    model = nn.Linear(1, 1)
    wrapped = backend.wrap_model(model)
    assert backend.unwrap_model(wrapped) is model
    assert backend.unwrap_model(model) is model
    assert backend.wrap_model(wrapped) is wrapped


def model_without_anything_to_train_is_not_wrapped(backend: Backend) -> None:
    frozen = nn.Linear(1, 1).requires_grad_(requires_grad=False)
    empty = nn.Identity()
    assert backend.wrap_model(frozen) is frozen
    assert backend.wrap_model(empty) is empty


def gradients_stay_local_where_that_is_supported(backend: Backend) -> None:
    model = backend.wrap_model(nn.Linear(1, 1, bias=False))
    inner = backend.unwrap_model(model)
    mine = torch.tensor([[1.0 + backend.world.rank]])
    with backend.no_sync([model]):
        model(mine).sum().backward()
    assert inner.weight.grad.item() == mine.item()
    model(mine).sum().backward()
    assert inner.weight.grad.item() == pytest.approx(1 + backend.world.world_size)


def barrier_lets_all_pass(backend: Backend) -> None:
    backend.barrier()
    backend.barrier()


def device_is_the_worlds(backend: Backend) -> None:
    assert backend.device == torch.device("cpu")
    assert isinstance(backend.name, str)


BODIES = {
    body.__name__: body
    for body in (
        sum_adds_up_the_ranks,
        mean_of_whole_numbers_is_a_fraction,
        max_takes_the_largest,
        reducing_does_not_share_memory,
        unknown_reduction_is_refused,
        gather_gives_every_rank_in_order,
        gather_takes_every_dtype_and_layout,
        objects_travel,
        wrapped_model_averages_gradients,
        wrapping_is_undone_and_not_repeated,
        model_without_anything_to_train_is_not_wrapped,
        gradients_stay_local_where_that_is_supported,
        barrier_lets_all_pass,
        device_is_the_worlds,
    )
}


def failures_of(backend: Backend) -> dict[str, str]:
    failures = {}
    for name, body in BODIES.items():
        try:
            body(backend)
        except Exception:
            failures[name] = traceback.format_exc()
    return failures


def on_gloo() -> tuple[str, dict[str, str]]:
    backend = choose(current().world)
    backend.setup()
    failures = failures_of(backend)
    name = backend.name
    backend.teardown()
    backend.teardown()
    return name, failures


def on_single() -> tuple[str, dict[str, str]]:
    backend = SingleBackend(World())
    backend.setup()
    failures = failures_of(backend)
    backend.teardown()
    backend.teardown()
    return backend.name, failures


@pytest.fixture(scope="module")
def reports(run_on_ranks: RunOnRanks) -> Callable[[str], list[dict[str, str]]]:
    """Run all bodies once per backend; give every rank's failures."""
    done: dict[str, list[dict[str, str]]] = {}

    def report(name: str) -> list[dict[str, str]]:
        if name not in done:
            ran = run_on_ranks(on_gloo) if name == "gloo" else []
            results = [of_rank["on_gloo"] for of_rank in ran] or [on_single()]
            assert [found for found, _ in results] == [name] * len(results)
            done[name] = [failures for _, failures in results]
        return done[name]

    return report


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("backend", ["single", "gloo"])
def test_backend_keeps_its_promise(backend: str, body: str, reports: Callable[[str], list[dict[str, str]]]) -> None:
    failed = {rank: failures[body] for rank, failures in enumerate(reports(backend)) if body in failures}
    assert failed == {}, "\n".join(f"rank {rank}:\n{text}" for rank, text in failed.items())
