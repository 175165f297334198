"""What a run saves and loads: names, numbers, hooks, registered objects, what differs, what is damaged."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel import Accelerator, ProjectConfiguration
from notebook_accel.core.checkpoints import folders
from notebook_accel.core.checkpoints.folders import replaced_of, staging_of
from notebook_accel.core.runtime import Runtime, activate, current
from notebook_accel.errors import CheckpointError, CheckpointNotFound, ConfigError
from notebook_accel.world import World
from tests.ranks import RunOnRanks


class Note:
    """Something registered."""

    def __init__(self, text: Any = "") -> None:
        self.text = text

    def state_dict(self) -> dict[str, Any]:
        return {"text": self.text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.text = state["text"]


def numbered(folder: Path, limit: int | None = None) -> Accelerator:
    project = ProjectConfiguration(project_dir=folder, automatic_checkpoint_naming=True, total_limit=limit)
    return Accelerator(project_config=project)


def trained(accelerator: Accelerator) -> tuple[nn.Module, Any]:
    model = nn.Linear(3, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))
    accelerator.backward(model(torch.ones(4, 3)).sum())
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(runtime: Runtime, tmp_path: Path) -> Path:
    """A checkpoint of a linear model and its optimizer."""
    accelerator = Accelerator()
    trained(accelerator)
    return accelerator.save_state(tmp_path / "x")


# ---- names and numbers


def test_files_are_called_as_users_know_them(runtime: Runtime, tmp_path: Path):
    accelerator = Accelerator(mixed_precision="fp16", gradient_accumulation_steps=2)
    model, optimizer = trained_in_half_a_window(accelerator)
    other, schedule = accelerator.prepare(nn.Linear(1, 1), torch.optim.lr_scheduler.StepLR(optimizer.optimizer, 1))
    accelerator.register_for_checkpointing(Note(), Note())
    path = accelerator.save_state(tmp_path / "x")
    assert names(path) == [
        "custom_checkpoint_0.pkl",
        "custom_checkpoint_1.pkl",
        "gradients_0.safetensors",
        "manifest.json",
        "model.safetensors",
        "model_1.safetensors",
        "optimizer.bin",
        "random_states_0.pkl",
        "scaler.pt",
        "scheduler.bin",
    ]
    again = accelerator.save_state(tmp_path / "x", safe_serialization=False)
    assert again == path
    assert {"pytorch_model.bin", "pytorch_model_1.bin"} < set(names(path))
    assert "model.safetensors" not in names(path)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (other, schedule) is not None


def trained_in_half_a_window(accelerator: Accelerator) -> tuple[nn.Module, Any]:
    model = nn.Linear(3, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    with accelerator.accumulate(model):
        accelerator.backward(model(torch.ones(4, 3)).sum())
        optimizer.step()
    return model, optimizer


def test_checkpoints_are_numbered_and_the_oldest_removed(runtime: Runtime, tmp_path: Path):
    accelerator = numbered(tmp_path, limit=2)
    trained(accelerator)
    paths = [accelerator.save_state() for _ in range(4)]
    assert [path.name for path in paths] == [f"checkpoint_{number}" for number in range(4)]
    assert names(tmp_path / "checkpoints") == ["checkpoint_2", "checkpoint_3"]
    assert accelerator.save_iteration == 4
    later = numbered(tmp_path)
    trained(later)
    assert later.save_state().name == "checkpoint_4"  # never over one of an earlier run


def test_the_newest_complete_one_is_loaded(runtime: Runtime, tmp_path: Path):
    accelerator = numbered(tmp_path)
    note = Note()
    accelerator.register_for_checkpointing(note)
    for note.text in ("first", "second", "third"):
        path = accelerator.save_state()
    (path / "custom_checkpoint_0.pkl").unlink()
    with pytest.warns(
        UserWarning, match=r"passed over, not complete: .*checkpoint_2/custom_checkpoint_0.pkl is missing"
    ):
        accelerator.load_state()
    assert note.text == "second"


def test_where_there_is_none_that_is_said(runtime: Runtime, tmp_path: Path):
    accelerator = numbered(tmp_path)
    with pytest.raises(CheckpointNotFound, match="checkpoints holds no complete checkpoint"):
        accelerator.load_state()
    with pytest.raises(CheckpointNotFound, match="there is no checkpoint"):
        accelerator.load_state(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"save_state\(\) has no folder"):
        Accelerator().save_state()
    with pytest.raises(ConfigError, match="no project_dir"):
        Accelerator().load_state()


def test_a_checkpoint_that_was_being_replaced_is_found(saved: Path):
    saved.rename(replaced_of(saved))
    accelerator = Accelerator()
    trained(accelerator)
    accelerator.load_state(saved)


def test_a_run_resumes_only_when_it_is_to(tmp_path: Path):
    def text(runtime: Runtime) -> tuple[bool, str]:
        with activate(runtime):
            accelerator, note = numbered(tmp_path), Note("new")
            accelerator.register_for_checkpointing(note)
            return accelerator.resume(), note.text

    assert text(Runtime(World(), resumes=True)) == (False, "new")
    with activate(Runtime(World())):
        accelerator = numbered(tmp_path)
        accelerator.register_for_checkpointing(Note("saved"))
        accelerator.save_state()
    assert text(Runtime(World())) == (False, "new")
    assert text(Runtime(World(), resumes=True)) == (True, "saved")
    assert text(Runtime(World(restart_count=1, max_restarts=2))) == (True, "saved")


def test_on_a_drive_it_is_said_what_holds(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # What the system says is replaced: such a drive cannot be mounted here.
    monkeypatch.setattr(folders, "unreliable", lambda _: "fuse.drive")
    accelerator = Accelerator()
    model, _ = trained(accelerator)
    before = model.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"fuse\.drive file system: files are written on this machine, copied"):
        path = accelerator.save_state(tmp_path / "x")
    accelerator.save_state(path)  # said once
    with torch.no_grad():
        model.weight.zero_()
    accelerator.load_state(path)
    assert torch.equal(model.weight, before)


# ---- what users add


def test_hooks_write_and_take_out(runtime: Runtime, tmp_path: Path):
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(1, 1))
    calls = []

    def on_save(models: list[nn.Module], weights: list[dict[str, Any]], folder: str) -> None:
        calls.append(("save", models == [model], len(weights)))
        Path(folder, "mine").mkdir()
        torch.save(weights.pop(), Path(folder, "mine", "weights.pt"))

    def on_load(models: list[nn.Module], folder: str) -> None:
        calls.append(("load", models == [model], os.path.exists(f"{folder}/mine/weights.pt")))
        models.pop().load_state_dict(torch.load(f"{folder}/mine/weights.pt"))

    handles = accelerator.register_save_state_pre_hook(on_save), accelerator.register_load_state_pre_hook(on_load)
    before = model.weight.detach().clone()
    path = accelerator.save_state(tmp_path / "x")
    assert names(path) == ["manifest.json", "mine", "random_states_0.pkl"]
    assert "mine/weights.pt" in json.loads((path / "manifest.json").read_text())["files"]
    model.weight.data.zero_()
    accelerator.load_state(path)
    assert torch.equal(model.weight, before)
    assert calls == [("save", True, 1), ("load", True, True)]
    for handle in handles:
        handle.remove()
    assert "model.safetensors" in names(accelerator.save_state(tmp_path / "x"))
    accelerator.load_state(path)
    assert len(calls) == 2


def test_a_hook_that_fails_leaves_the_old_one(saved: Path):
    accelerator = Accelerator()
    trained(accelerator)
    before = names(saved)

    def fail(*_: Any) -> None:
        raise OSError("no room")

    accelerator.register_save_state_pre_hook(fail)
    with pytest.raises(CheckpointError, match="rank 0 could not save: OSError: no room"):
        accelerator.save_state(saved)
    assert names(saved) == before
    assert not staging_of(saved).exists()


def test_what_cannot_be_saved_is_refused_at_once(runtime: Runtime, tmp_path: Path):
    accelerator = Accelerator()
    with pytest.raises(ConfigError, match="object has no state_dict"):
        accelerator.register_for_checkpointing(object())
    accelerator.register_for_checkpointing(Note(threading.Thread))
    with pytest.raises(CheckpointError, match=r"custom_checkpoint_0\.pkl would hold threading\.Thread"):
        accelerator.save_state(tmp_path / "x")
    assert names(tmp_path) == []


# ---- what differs, and what is damaged


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_damaged_files_are_refused_by_name(saved: Path, name: str, damage: str):
    path = saved / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if damage == "cut" else data)
    accelerator = Accelerator()
    model, _ = trained(accelerator)
    before = model.weight.detach().clone()
    if name == "manifest.json" and damage != "cut":
        # Without a manifest it is a checkpoint of somebody else's; one digit of it names another checksum.
        if damage == "gone":
            accelerator.load_state(saved)
        return
    with pytest.raises(CheckpointError, match=re.escape(name)):
        accelerator.load_state(saved)
    assert torch.equal(model.weight, before)


def test_what_does_not_fit_is_named(saved: Path):
    accelerator = Accelerator()
    accelerator.prepare(nn.Linear(3, 4))
    with pytest.raises(CheckpointError, match=r"bias is of shape \(2,\), but \(4,\) in the model"):
        accelerator.load_state(saved)
    accelerator = Accelerator()
    trained(accelerator)
    accelerator.prepare(nn.Linear(3, 4))
    with pytest.raises(CheckpointError, match="holds 1 models, and 2 are prepared"):
        accelerator.load_state(saved)
    accelerator = Accelerator()
    model = nn.Linear(3, 2)
    accelerator.prepare(model, torch.optim.Adam([{"params": [model.weight]}, {"params": [model.bias]}]))
    with pytest.raises(CheckpointError, match=r"optimizer\.bin does not fit the Adam"):
        accelerator.load_state(saved)
    with pytest.raises(ConfigError, match="weights_only"):
        accelerator.load_state(saved, load_kwargs={"weights_only": False})


def test_a_part_of_it_is_loaded(saved: Path):
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(3, 2))
    accelerator.load_state(saved)
    accelerator.load_state(saved, load_kwargs={"weights_only": True})
    assert model.weight is not None
    model = accelerator.prepare(nn.Sequential())
    accelerator = Accelerator()
    accelerator.prepare(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(CheckpointError, match=r"it lacks 0\.weight, 0\.bias; the model does not know"):
        accelerator.load_state(saved)


def test_windows_of_another_size_are_refused(runtime: Runtime, tmp_path: Path):
    accelerator = Accelerator(gradient_accumulation_steps=3)
    trained_in_half_a_window(accelerator)
    path = accelerator.save_state(tmp_path / "x")
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = nn.Linear(3, 2)
    accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    with pytest.raises(ConfigError, match="window of 3 micro-batches had begun, and windows hold 2"):
        accelerator.load_state(path)


# ---- in the background


def test_the_state_is_that_of_the_moment(runtime: Runtime, tmp_path: Path):
    accelerator = numbered(tmp_path)
    model, _ = trained(accelerator)
    note = Note("then")
    accelerator.register_for_checkpointing(note)
    before = model.weight.detach().clone()
    for _ in range(2):  # the second time into memory that is there
        accelerator.save_state(block=False)
        with torch.no_grad():
            model.weight.zero_()
        note.text = "later"
        accelerator.load_state()  # waits for it
        assert torch.equal(model.weight, before)
        assert note.text == "then"


def test_what_goes_wrong_surfaces_at_the_next_call(runtime: Runtime, tmp_path: Path):
    accelerator = Accelerator()
    trained(accelerator)
    accelerator.register_for_checkpointing(Note(threading.Thread))
    accelerator.save_state(tmp_path / "x", block=False)
    with pytest.raises(CheckpointError, match=r"custom_checkpoint_0\.pkl would hold"):
        accelerator.save_state(tmp_path / "y")
    accelerator.save_state(tmp_path / "x", block=False)
    with pytest.raises(CheckpointError, match=r"custom_checkpoint_0\.pkl would hold"):
        accelerator.end_training()
    runtime.finish()
    accelerator.save_state(tmp_path / "x", block=False)
    with pytest.raises(CheckpointError, match=r"custom_checkpoint_0\.pkl would hold"):
        runtime.finish()
    assert names(tmp_path) == []


# ---- two ranks


def ranks_share_the_work() -> None:
    accelerator = Accelerator()
    world = current().world
    folder = Path(current().backend.broadcast_object(tempfile.mkdtemp()))
    model, _ = trained(accelerator)
    expected = accelerator.get_state_dict(model)["weight"].clone()
    for block in (True, False):
        path = accelerator.save_state(folder / "x", block=block)
        accelerator.wait_for_checkpoint()
        assert names(path) == [
            "manifest.json",
            "model.safetensors",
            "optimizer.bin",
            "random_states_0.pkl",
            "random_states_1.pkl",
        ]
        with torch.no_grad():
            accelerator.unwrap_model(model).weight.zero_()
        accelerator.load_state(path)
        assert torch.equal(accelerator.get_state_dict(model)["weight"], expected)
    # An error of one rank is every rank's, and what was there stays.
    note = Note(threading.Thread if world.rank else "fine")
    accelerator.register_for_checkpointing(Note("fine"), note)

    def fail_on_rank_1(*_: Any) -> None:
        if world.rank:
            raise OSError("no room")

    handle = accelerator.register_save_state_pre_hook(fail_on_rank_1)
    for block in (True, False):
        with pytest.raises(CheckpointError, match="rank 1 could not save: OSError: no room"):
            accelerator.save_state(folder / "x", block=block)
    handle.remove()
    current().backend.barrier()
    assert names(folder) == ["x"]


def ranks_save_in_the_middle() -> Path:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    folder = Path(current().backend.broadcast_object(tempfile.mkdtemp()))
    model, optimizer = trained_in_half_a_window(accelerator)
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(8)), batch_size=2))
    list(loader)
    next(iter(loader))
    assert (model, optimizer) is not None
    return accelerator.save_state(folder / "x")


def test_on_two_ranks(runtime: Runtime, run_on_ranks: RunOnRanks) -> None:
    results = run_on_ranks(ranks_share_the_work, ranks_save_in_the_middle)
    # What two ranks saved is loaded by one, which says what it does not take over.
    path = results[0]["ranks_save_in_the_middle"]
    assert {"gradients_0.safetensors", "gradients_1.safetensors"} < set(names(path))
    accelerator = Accelerator()
    model = nn.Linear(3, 2)
    accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(8)), batch_size=2))
    said = r"saved by 2 ranks and is loaded by 1: .*begins anew; gradients of the window that had begun are dropped"
    with pytest.warns(UserWarning, match=said):
        accelerator.load_state(path)
    assert loader.epoch == 1
    assert len(list(loader)) == 4
