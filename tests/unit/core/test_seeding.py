"""What workers draw is the same with any number of them, and after a resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from notebook_accel import Accelerator, DataLoaderConfiguration
from notebook_accel.core.runtime import Runtime, current
from tests.ranks import RunOnRanks

pytestmark = pytest.mark.usefixtures("handler_of_dead_workers")
SAMPLES = 23


class Augmented(Dataset[Tensor]):
    """Samples that are changed at random, by each of the generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, random.random(), np.random.random(), float(torch.rand(()))])  # noqa: NPY002


def jittered(samples: list[Tensor]) -> Tensor:
    batch: Tensor = default_collate(samples)
    return batch + torch.rand(()) / 100


def made(workers: int = 2, seed: int = 5, **options: Any) -> DataLoader[Any]:
    config = {"seed_batches": True, **options.pop("config", {})}
    torch.manual_seed(seed)
    base = DataLoader(
        Augmented(),
        num_workers=workers,
        multiprocessing_context="fork",
        **{"batch_size": 2, "shuffle": True, "collate_fn": jittered, **options},
    )
    loader: DataLoader[Any] = Accelerator(dataloader_config=DataLoaderConfiguration(**config)).prepare(base)
    return loader


def epochs(loader: DataLoader[Any], count: int) -> list[list[Any]]:
    return [[batch.tolist() for batch in loader] for _ in range(count)]


def rest_is_that_of_a_run_never_stopped(at: int, workers_after: int = 2, **options: Any) -> None:
    whole = epochs(made(**options), 3)
    loader: Any = made(**options)
    list(loader)
    running = iter(loader)
    begun = [next(running).tolist() for _ in range(at)]
    state, generator = loader.state_dict(), torch.get_rng_state()
    running.close()
    fresh: Any = made(workers_after, seed=99, **options)
    fresh.load_state_dict(state)
    torch.set_rng_state(generator)
    rest, following = epochs(fresh, 2)
    assert begun + rest == whole[1]
    assert following == whole[2]
    assert len({str(batch) for epoch in whole for batch in epoch}) == sum(map(len, whole)), "drawn anew each time"


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("seedable", [False, True])
def test_a_resumed_epoch_draws_the_rest(runtime: Runtime, persistent: bool, shuffle: bool, seedable: bool) -> None:
    config = {"use_seedable_sampler": seedable, "data_seed": 3}
    rest_is_that_of_a_run_never_stopped(4, shuffle=shuffle, persistent_workers=persistent, config=config)


def test_draws_do_not_depend_on_the_number_of_workers(runtime: Runtime) -> None:
    assert epochs(made(1), 2) == epochs(made(2, prefetch_factor=1), 2)
    rest_is_that_of_a_run_never_stopped(3, workers_after=1)


def test_single_samples(runtime: Runtime) -> None:
    rest_is_that_of_a_run_never_stopped(4, batch_size=None, collate_fn=None)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # what torchdata calls
def test_torchdatas_workers(runtime: Runtime) -> None:
    pytest.importorskip("torchdata.stateful_dataloader")
    rest_is_that_of_a_run_never_stopped(4, config={"use_stateful_dataloader": True})


def test_without_it_workers_draw_as_plain_torchs_do(runtime: Runtime) -> None:
    prepared = epochs(made(config={"seed_batches": False}), 1)
    torch.manual_seed(5)
    plain = DataLoader(
        Augmented(), batch_size=2, shuffle=True, collate_fn=jittered, num_workers=2, multiprocessing_context="fork"
    )
    assert epochs(plain, 1) == prepared


def ranks_draw_on() -> None:
    for config in ({}, {"dispatch_batches": True}, {"split_batches": True}):
        rest_is_that_of_a_run_never_stopped(2, config=config)
    mine = [batch[0, 1:].tolist() for batch in made(shuffle=False)]
    every = [str(draws) for of_rank in current().backend.gather_object(mine) for draws in of_rank]
    assert len(set(every)) == len(every), "ranks of one seed draw different numbers"


def test_on_two_ranks(run_on_ranks: RunOnRanks) -> None:
    run_on_ranks(ranks_draw_on, timeout_seconds=200)
