from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core.rng import same_draws, seed_everything, seed_from_entropy, set_seed
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.world import World


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002 - the generator seeded


def test_the_same_seed_draws_the_same():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(2**40)  # more than NumPy takes


def test_entropy_differs_each_time():
    assert seed_from_entropy() != seed_from_entropy()
    first = draw()
    seed_from_entropy()
    assert not set(first) & set(draw())


def test_entropy_can_be_had_again():
    seed = seed_from_entropy()
    first = draw()
    seed_everything(seed)
    assert draw() == first


def test_set_seed_may_differ_per_rank():
    drawn = []
    for rank in (0, 1):
        with activate(Runtime(World(rank=rank, world_size=2))):
            set_seed(5)
            same = torch.rand(1).item()
            set_seed(5, device_specific=True)
            drawn.append((same, torch.rand(1).item()))
    assert drawn[0][0] == drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_set_seed_may_ask_for_determinism():
    try:
        set_seed(1, deterministic=True)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("rank", [0, 1])
def test_same_draws_leaves_other_ranks_generators_alone(rank: int):
    backend = SingleBackend(World(rank=rank))
    own = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    expected = torch.rand(3).tolist()
    torch.manual_seed(0)
    with same_draws(backend, [own]):
        inside = torch.rand(1).item()
    assert inside == expected[0]
    assert torch.rand(1).item() == expected[1 if rank == 0 else 0]
