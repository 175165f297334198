"""Keep every process group alive until the process ends, and let another follow it at the same store.

A freed DDP model can drop the last reference to a gloo group. The group's destructor then joins its thread
while it holds the GIL that this thread is waiting for: the rank hangs for good (seen in 5 of 25 plain runs).

A group formed after another was destroyed would find the other's addresses in the store, under the same keys, and
wait for ranks that are gone. Each attempt therefore gets keys of its own, by the variable that prefixes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.distributed
from torch.distributed import distributed_c10d

from notebook_accel import environment

_kept: list[object] = []


def keep_process_groups() -> None:
    """Hold a reference to whatever ``destroy_process_group`` would free: only that call lets go of a group."""
    destroy = torch.distributed.destroy_process_group
    keeping = _keeping(destroy)
    torch.distributed.destroy_process_group = keeping
    distributed_c10d.destroy_process_group = keeping


def _keeping(destroy: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(destroy)
    def destroy_process_group(*args: Any, **kwargs: Any) -> Any:
        _kept.extend(distributed_c10d._world.pg_map)  # noqa: SLF001 - the only list of all groups
        result = destroy(*args, **kwargs)
        if not torch.distributed.is_initialized():
            environment.count_rendezvous_attempt()
        return result

    return destroy_process_group
