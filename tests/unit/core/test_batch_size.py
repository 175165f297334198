from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.batch_size import find_executable_batch_size
from notebook_accel.core.memory import is_out_of_memory
from notebook_accel.core.runtime import Runtime, current
from notebook_accel.errors import ConfigError
from tests.ranks import RunOnRanks


def test_shrinks_until_it_fits(runtime: Runtime):
    tried = []

    @find_executable_batch_size
    def train(batch_size: int, factor: int, *, more: int = 0) -> int:
        tried.append(batch_size)
        if batch_size > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return batch_size * factor + more

    assert train(2, more=1) == 185
    assert tried == [128, 115, 103, 92]


def test_its_own_rule_is_used_also_with_parentheses(runtime: Runtime):
    sizes = iter([5, 3])

    @find_executable_batch_size(starting_batch_size=8, reduce_batch_size_fn=lambda: next(sizes))
    def train(batch_size: int) -> int:
        if batch_size > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return batch_size

    assert train() == 3


def test_nothing_fits(runtime: Runtime):
    @find_executable_batch_size(starting_batch_size=4)
    def train(batch_size: int) -> int:
        raise MemoryError

    with pytest.raises(ConfigError, match=r"no batch size is small enough for train: 1 was not"):
        train()


def test_other_errors_are_errors(runtime: Runtime):
    @find_executable_batch_size(starting_batch_size=4)
    def train(batch_size: int) -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        train()
    with pytest.raises(ConfigError, match="takes no batch size"):
        find_executable_batch_size(lambda: None)
    with pytest.raises(ConfigError, match="starting_batch_size"):
        find_executable_batch_size(starting_batch_size=0)(lambda size: size)
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


# ---- several ranks


def one_rank_runs_out_of_memory_while_the_others_wait_for_it() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    tried = []

    @find_executable_batch_size(starting_batch_size=10)
    def train(batch_size: int) -> int:
        accelerator.free_memory()
        tried.append(batch_size)
        model = accelerator.prepare(torch.nn.Linear(2, 1))
        if rank == 1 and batch_size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        accelerator.backward(model(torch.ones(batch_size, 2)).sum())
        return int(accelerator.gather(torch.tensor([batch_size])).sum())

    assert train() == 8 * accelerator.num_processes
    assert tried == [10, 9, 8]
    assert train() == 8 * accelerator.num_processes, "goes on with a new group"
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == accelerator.num_processes


def one_rank_runs_out_of_memory_when_the_others_are_done() -> None:
    rank = current().world.rank

    @find_executable_batch_size(starting_batch_size=10)
    def train(batch_size: int) -> int:
        if rank == 0 and batch_size > 8:
            raise MemoryError
        return batch_size

    assert train() == 8


def a_bug_on_one_rank_is_that_ranks_error() -> None:
    rank = current().world.rank

    @find_executable_batch_size(starting_batch_size=10)
    def train(batch_size: int) -> int:
        raise ValueError(f"rank {rank}")

    with pytest.raises(ValueError, match=f"rank {rank}"):
        train()


def test_on_two_ranks(run_on_ranks: RunOnRanks):
    bodies = (
        one_rank_runs_out_of_memory_while_the_others_wait_for_it,
        one_rank_runs_out_of_memory_when_the_others_are_done,
        a_bug_on_one_rank_is_that_ranks_error,
    )
    assert len(run_on_ranks(*bodies)) == 2
