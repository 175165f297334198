"""Ranks that share the writing of a model, checked in one launch."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from notebook_accel import Accelerator, CheckpointError, load_checkpoint_in_model
from notebook_accel.core.verbs.saving import Format, save_weights
from tests.ranks import RunOnRanks

BLOCKS = 7


def model_of(value: float) -> nn.Module:
    model = nn.Sequential(*[nn.Linear(100, 100) for _ in range(BLOCKS)])
    model[6].weight = model[0].weight
    for number, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, value + number)
    return model


def folder_of(accelerator: Accelerator) -> Path:
    return Path(accelerator._backend.broadcast_object(tempfile.mkdtemp()))


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def opened_for_writing(folder: Path, save: Any) -> set[str]:
    """Which files of a folder this process makes."""
    made: set[str] = set()
    replace = Path.replace

    def noted(path: Path, target: Path) -> Path:
        made.add(Path(target).name)
        return replace(path, target)

    Path.replace = noted
    try:
        save()
    finally:
        Path.replace = replace
    assert made <= {path.name for path in folder.iterdir()}
    return made


def ranks_share_the_shards() -> None:
    accelerator = Accelerator()
    folder = folder_of(accelerator)
    model = accelerator.prepare(model_of(1))
    made = opened_for_writing(folder, lambda: accelerator.save_model(model, folder, "50KB"))
    every = accelerator._backend.gather_object(made)
    shards = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    assert len(shards) == 6
    assert every[0] == {*shards[0::2], "model.safetensors.index.json"}
    assert every[1] == set(shards[1::2])
    assert set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values()) == set(shards)
    loaded = accelerator.prepare(model_of(0))
    load_checkpoint_in_model(loaded, folder, strict=True)  # by the names of the plain model
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def one_file_is_written_by_rank_0_alone() -> None:
    accelerator = Accelerator()
    folder = folder_of(accelerator)
    if accelerator.is_main_process:
        accelerator.save_model(model_of(1), folder)  # nobody is waited for
    accelerator.wait_for_everyone()
    assert os.listdir(folder) == ["model.safetensors"]
    assert accelerator.get_state_dict(accelerator.prepare(model_of(1))).keys() == model_of(1).state_dict().keys()


def an_error_of_one_rank_is_everybodys_and_old_files_stay() -> None:
    accelerator = Accelerator()
    for safe in (True, False):
        folder = folder_of(accelerator)
        accelerator.save_model(model_of(1), folder, "50KB", safe)
        before = held(folder)
        accelerator.wait_for_everyone()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if accelerator.process_index == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
        name = f"{'model' if safe else 'pytorch_model'}-00002-of-00006"
        with pytest.raises(CheckpointError, match=rf"rank 1 could not save: .*{name}.*File too large"):
            accelerator.save_model(model_of(2), folder, "50KB", safe)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        accelerator.wait_for_everyone()
        assert held(folder) == before
        accelerator.wait_for_everyone()
        accelerator.save_model(model_of(2), folder, "50KB", safe)  # training goes on, and so does saving
        assert held(folder).keys() == before.keys()
        assert held(folder) != before


def machines_that_share_no_disk_are_told() -> None:
    accelerator = Accelerator()
    folder = Path(tempfile.mkdtemp())  # another one on each rank
    with pytest.raises(CheckpointError, match="00002-of-00006.* was written by another machine") as caught:
        accelerator.save_model(model_of(1), folder, "50KB")
    assert "save_on_each_node=True" in caught.value.hint
    assert os.listdir(folder) == []


def each_machine_may_keep_files_of_its_own() -> None:
    accelerator = Accelerator()
    backend, world = accelerator._backend, accelerator._backend.world
    folder = Path(tempfile.mkdtemp())
    backend.world = type(world)(rank=world.rank, world_size=2, local_rank=0, local_world_size=1)
    try:
        save_weights(model_of(1).state_dict(), folder, backend, Format(largest_bytes=50_000, on_each_node=True))
    finally:
        backend.world = world
    assert len(os.listdir(folder)) == 7
    load_checkpoint_in_model(model_of(0), folder, strict=True)


BODIES = (
    ranks_share_the_shards,
    one_file_is_written_by_rank_0_alone,
    an_error_of_one_rank_is_everybodys_and_old_files_stay,
    machines_that_share_no_disk_are_told,
    each_machine_may_keep_files_of_its_own,
)


@pytest.fixture(scope="module")
def passed(run_on_ranks: RunOnRanks) -> list[dict[str, Any]]:
    """Run all bodies; the first failure ends the launch, and its output names the body and the rank."""
    return run_on_ranks(*BODIES)


@pytest.mark.parametrize("body", [body.__name__ for body in BODIES])
def test_on_two_ranks(body: str, passed: list[dict[str, Any]]) -> None:
    assert [body in of_rank for of_rank in passed] == [True, True]
