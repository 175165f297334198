from __future__ import annotations

import pytest

from notebook_accel.backends.distributed import DistributedBackend
from notebook_accel.backends.registry import choose
from notebook_accel.backends.single import SingleBackend
from notebook_accel.errors import NotAvailableError
from notebook_accel.world import World


def test_a_world_of_one_needs_no_messages():
    assert type(choose(World())) is SingleBackend


def test_cpu_ranks_talk_over_gloo():
    backend = choose(World(rank=1, world_size=2))
    assert type(backend) is DistributedBackend
    assert backend.name == "gloo"


def test_what_nothing_joins_is_refused():
    with pytest.raises(NotAvailableError, match="rank 1: no way to join 2 ranks on mps"):
        choose(World(rank=1, world_size=2, device_kind="mps"))
