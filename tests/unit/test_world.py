from __future__ import annotations

import dataclasses

import pytest

from notebook_accel.world import World


def test_the_default_is_one_process_on_the_cpu():
    assert World() == World(rank=0, world_size=1, local_rank=0, local_world_size=1, device_kind="cpu")
    assert World().is_main
    assert World().is_local_main


def test_main_is_rank_0_and_local_main_the_first_of_its_machine():
    world = World(rank=2, world_size=4, local_rank=0, local_world_size=2)
    assert (world.is_main, world.is_local_main) == (False, True)


def test_a_world_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        World().rank = 1


def test_the_environment_is_torchruns_and_accelerates():
    variables = World(
        rank=1, world_size=2, local_rank=1, local_world_size=2, master_port=1234, agent_store=True
    ).to_env("x", "bf16")
    assert variables == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "ROLE_RANK": "1",
        "ROLE_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1234",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "x",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_USE_CPU": "true",
    }


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_only_cpu_ranks_are_told_to_use_the_cpu(kind):
    assert "ACCELERATE_USE_CPU" not in World(device_kind=kind).to_env()


def test_restarts_are_counted_as_torchrun_counts_them():
    variables = World(restart_count=2, max_restarts=3).to_env()
    assert (variables["TORCHELASTIC_RESTART_COUNT"], variables["TORCHELASTIC_MAX_RESTARTS"]) == ("2", "3")
