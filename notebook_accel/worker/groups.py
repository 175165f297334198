"""Keep every process group alive until the process ends, and let another follow it at the same store.

A freed DDP model can drop the last reference to a gloo group. The group's destructor then joins its thread
while it holds the GIL that this thread is waiting for: the rank hangs for good (seen in 5 of 25 plain runs).

A group that is formed after another was destroyed would find the other's addresses in the store, under the same
keys, and wait for ranks that listen there no more (seen in most runs that formed three). Each rendezvous therefore
gets keys of its own.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed
from torch.distributed import PrefixStore, Store, distributed_c10d

_kept: list[object] = []


def prepare_process_groups() -> None:
    """Make process groups of this process safe to destroy and to form again. Once a process, before any group."""
    keeping = _keeping(torch.distributed.destroy_process_group)
    torch.distributed.destroy_process_group = keeping
    distributed_c10d.destroy_process_group = keeping
    handlers = importlib.import_module("torch.distributed.rendezvous")._rendezvous_handlers  # noqa: SLF001 - no setter
    handlers["env"] = _numbered(handlers["env"])


def _keeping(destroy: Callable[..., Any]) -> Callable[..., Any]:
    """Hold a reference to whatever ``destroy_process_group`` frees: only that call lets go of a group."""

    @functools.wraps(destroy)
    def destroy_process_group(*args: Any, **kwargs: Any) -> Any:
        _kept.extend(distributed_c10d._world.pg_map)  # noqa: SLF001 - the only list of all groups
        return destroy(*args, **kwargs)

    return destroy_process_group


def _numbered(rendezvous: Callable[..., Iterator[tuple[Store, int, int]]]) -> Callable[..., Any]:
    """Prefix the store's keys with how often this process has met the others: the same number on every rank."""
    numbers = itertools.count(1)

    def meet(*args: Any, **kwargs: Any) -> Iterator[tuple[Store, int, int]]:
        for store, rank, world_size in rendezvous(*args, **kwargs):
            yield PrefixStore(f"notebook_accel/meeting/{next(numbers)}", store), rank, world_size

    return meet
