from __future__ import annotations

import subprocess
import sys

import pytest

from notebook_accel.backends.distributed import DistributedBackend
from notebook_accel.backends.registry import choose
from notebook_accel.backends.single import SingleBackend
from notebook_accel.errors import ConfigError, NotAvailableError
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


def test_a_rank_whose_torch_tpu_sees_no_chip_is_told():
    with pytest.raises(ConfigError, match="rank 1: torch_tpu has found no TPU chip"):
        choose(World(rank=1, world_size=2, device_kind="tpu"))


ON_A_TPU = """
import torch
torch.utils.rename_privateuse1_backend("tpu")  # as torch_tpu does where it finds chips
from notebook_accel.backends.registry import choose
from notebook_accel.world import DistributedType, World
world = World(rank=1, world_size=4, local_rank=1, device_kind="tpu")
backend = choose(world)
print(type(backend).__name__, backend.name, backend.device, backend.message_device, sorted(backend.refused_precisions))
print(world.distributed_type is DistributedType.TPU)
"""


def test_a_rank_on_a_tpu_is_joined_by_torch_tpus_engine() -> None:
    command = [sys.executable, "-c", ON_A_TPU]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["TorchTpuBackend cpu:gloo,tpu:tpu_dist tpu cpu ['fp16', 'fp8']", "True"], (
        done.stderr
    )
