from __future__ import annotations

import pytest

from tests.unit.worker.forks import in_a_fork


def test_collectives_and_steps_count():
    pytest.importorskip("torch")

    def counts() -> list[int]:
        import torch
        import torch.distributed as dist

        from notebook_accel.worker.imports import when_imported
        from notebook_accel.worker.progress import Progress

        progress = Progress()
        when_imported(progress.actions())
        counted = [progress.count()]
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        formed = progress.count()
        for act in (lambda: dist.all_reduce(torch.ones(1)), dist.barrier, lambda: dist.new_group([0])):
            act()
            counted.append(progress.count() - formed)
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], 0.1)
        weight.sum().backward()
        before = progress.count()
        optimizer.step()
        counted.append(progress.count() - before)
        dist.destroy_process_group()
        return counted

    first, reduced, waited, formed, stepped = in_a_fork(counts)
    assert (first, reduced, stepped) == (0, 1, 1)
    assert reduced < waited <= formed
