"""Weights in files: names, shards, tensors that share memory, and what stays when there is no space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from notebook_accel import Accelerator, CheckpointError, ConfigError, load_checkpoint_in_model
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.core.weights.sharding import bytes_of
from notebook_accel.utils import save
from notebook_accel.world import World
from tests.unit.core.weights.models import Spec, bag, contents, specs

ROOT = Path(__file__).parents[4]


TURNED = Spec((2, 2), torch.float32, "transposed", 0)
HALF = Spec((), torch.float32, "first half", 0)


@settings(max_examples=60, deadline=None)
@given(specs(), st.integers(1, 200), st.booleans())
@example([TURNED, HALF, HALF], 1, True)  # the same half twice, of what has another order in memory
def test_what_was_saved_is_loaded(wanted: list[Spec], largest_bytes: int, safe: bool):
    with tempfile.TemporaryDirectory() as folder, activate(Runtime(World())):
        saved, loaded = bag(wanted, seed=1), bag(wanted, seed=2)
        before = contents(saved)
        Accelerator().save_model(saved, folder, largest_bytes, safe)
        load_checkpoint_in_model(loaded, folder, strict=True)
        assert contents(saved) == before  # saving changes nothing
        assert contents(loaded) == before


@settings(max_examples=30, deadline=None)
@given(specs(kinds=("plain", "again")), st.integers(1, 200), st.booleans())
def test_what_was_saved_is_loaded_where_there_is_no_memory_yet(wanted: list[Spec], largest_bytes: int, safe: bool):
    with tempfile.TemporaryDirectory() as folder, activate(Runtime(World())):
        saved, loaded = bag(wanted, seed=1), bag(wanted, seed=2, device="meta")
        Accelerator().save_model(saved, folder, largest_bytes, safe)
        load_checkpoint_in_model(loaded, folder, strict=True)
        assert contents(loaded) == contents(saved)
        known = dict(loaded.state_dict(keep_vars=True))
        for name, tensor in saved.state_dict(keep_vars=True).items():
            same = [other for other, one in saved.state_dict(keep_vars=True).items() if one is tensor]
            assert all(known[other] is known[name] for other in same)  # tied again
            assert known[name].requires_grad == tensor.requires_grad


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(1, 200))
def test_the_safetensors_library_reads_the_files(wanted: list[Spec], largest_bytes: int):
    with tempfile.TemporaryDirectory() as folder, activate(Runtime(World())):
        saved = bag(wanted, seed=1)
        Accelerator().save_model(saved, folder, largest_bytes)
        found = {}
        for path in Path(folder).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                assert file.metadata() == {"format": "pt"}
            found.update(load_file(path))
        state = saved.state_dict()
        assert found.keys() <= state.keys()
        assert all(torch.equal(found[name].view(-1), state[name].reshape(-1)) for name in found)


class Tied(nn.Module):
    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.wte = nn.Linear(width, width, bias=False)
        self.large = nn.Linear(10 * width, 10 * width, bias=False)
        self.small = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, width, bias=False)
        self.head.weight = self.wte.weight


def test_a_tied_weight_is_written_once_under_its_first_name(runtime: Runtime, tmp_path: Path):
    Accelerator().save_model(Tied(), tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["large.weight", "small.weight", "wte.weight"]


@pytest.mark.parametrize(("safe", "stem", "end"), [(True, "model", ".safetensors"), (False, "pytorch_model", ".bin")])
def test_shards_and_their_index(runtime: Runtime, tmp_path: Path, safe: bool, stem: str, end: str):
    Accelerator().save_model(Tied(), tmp_path, "900B", safe)
    shards = [f"{stem}-0000{number}-of-00002{end}" for number in (1, 2)]
    assert sorted(os.listdir(tmp_path)) == [*shards, f"{stem}{end}.index.json"]
    index = json.loads((tmp_path / f"{stem}{end}.index.json").read_text())
    assert index["metadata"] == {"total_size": 4 * (10_000 + 200)}
    places = {"large.weight": shards[0], "small.weight": shards[1], "wte.weight": shards[1]}
    assert index["weight_map"] == places | ({} if safe else {"head.weight": shards[1]})


def test_files_of_an_earlier_save_go_and_others_stay(runtime: Runtime, tmp_path: Path):
    accelerator = Accelerator()
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / ".model-00007-of-00009.safetensors.saving").write_text("left by a machine that lost its power")
    accelerator.save_model(Tied(), tmp_path, "1KB")
    accelerator.save_model(Tied(), tmp_path, safe_serialization=False)
    accelerator.save_model(Tied(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "model.safetensors"]


@pytest.mark.parametrize(
    ("size", "count"), [("10GB", 10 * 10**9), ("500MB", 500_000_000), ("1.5kb", 1500), ("1GiB", 1 << 30), (17, 17)]
)
def test_sizes_of_shards(size: object, count: int):
    assert bytes_of(size) == count


@pytest.mark.parametrize("size", ["", "10", "GB", "-1GB", 0, -1, True, None, "0MB", 1.5])
def test_what_is_no_size_is_refused(runtime: Runtime, tmp_path: Path, size: object):
    with pytest.raises(ConfigError, match="max_shard_size"):
        Accelerator().save_model(nn.Linear(1, 1), tmp_path, size)


def test_what_has_no_place_in_the_format_is_named(runtime: Runtime, tmp_path: Path):
    model = nn.Linear(1, 1)
    model.register_buffer("odd", torch.zeros(1, dtype=torch.complex128))
    with pytest.raises(CheckpointError, match="'odd', a tensor of torch.complex128") as caught:
        Accelerator().save_model(model, tmp_path)
    assert "safe_serialization=False" in caught.value.hint
    assert os.listdir(tmp_path) == []
    with pytest.raises(CheckpointError, match="meta"):
        Accelerator().save_model(nn.Linear(1, 1, device="meta"), tmp_path)


def test_a_folder_that_is_a_file_is_an_error(runtime: Runtime, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file: File exists"):
        Accelerator().save_model(nn.Linear(1, 1), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_compiled_models_are_saved_under_their_own_names(runtime: Runtime, tmp_path: Path):
    Accelerator().save_model(torch.compile(nn.Linear(1, 1), backend="eager"), tmp_path)
    assert list(load_file(tmp_path / "model.safetensors")) == ["bias", "weight"]


def test_a_view_does_not_bring_all_of_its_memory_along(runtime: Runtime, tmp_path: Path):
    model = nn.Module()
    model.register_buffer("part", torch.zeros(1_000_000)[:10])
    Accelerator().save_model(model, tmp_path, safe_serialization=False)
    assert (tmp_path / "pytorch_model.bin").stat().st_size < 10_000


# ---- no space

FULL = """
import sys, torch, resource
from pathlib import Path
from notebook_accel import Accelerator, CheckpointError
folder, how = Path(sys.argv[1]), sys.argv[2]
accelerator = Accelerator(cpu=True)
large = torch.nn.Sequential(*[torch.nn.Linear(300, 300) for _ in range(6)])
held = lambda: {path.name: path.read_bytes() for path in folder.iterdir()}
if how == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for safe in (True, False):
    accelerator.save_model(torch.nn.Linear(100, 100), folder, safe_serialization=safe)
    before = held()
    for save in (
        lambda: accelerator.save_model(large, folder, safe_serialization=safe),
        lambda: accelerator.save_model(large, folder, "500KB", safe_serialization=safe),
        lambda: accelerator.save({"a": torch.zeros(900_000)}, folder / "object", safe_serialization=safe),
    ):
        try:
            save()
        except CheckpointError as error:
            print(error.what)
        assert held() == before
    accelerator.save_model(torch.nn.Linear(100, 100), folder, safe_serialization=safe)
print("training goes on")
"""


@pytest.mark.parametrize("how", ["limit", "disk"])
def test_what_was_there_stays_when_there_is_no_space(tmp_path: Path, how: str):
    command = [sys.executable, "-c", FULL, str(tmp_path), how]
    if how == "disk":
        mounted = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
        probe = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs tmpfs {tmp_path}"]
        command = [*probe[:4], mounted, str(tmp_path), *command]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a small disk")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.splitlines()
    reason = "No space left on device" if how == "disk" else "File too large"
    assert len(errors) == 6, done.stdout
    assert all(reason in error and str(tmp_path) in error for error in errors)
    assert ["rank 0" in error for error in errors] == [True, True, False] * 2
    assert last == "training goes on"


# ---- memory

PEAK = """
import resource, sys, torch
from torch import nn
from notebook_accel import Accelerator
model = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(24)])
for layer in model:
    layer.weight.data = layer.weight.data.t()  # has to be copied to be written
accelerator, safe = Accelerator(cpu=True), sys.argv[2] == "safe"
accelerator.save_model(nn.Linear(1, 1), sys.argv[1], safe_serialization=safe)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
accelerator.save_model(model, sys.argv[1], "30MB", safe_serialization=safe)
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(1024 * more / sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("safe", ["safe", "torch"])
def test_a_model_is_written_without_a_copy_of_it(tmp_path: Path, safe: str):
    command = [sys.executable, "-c", PEAK, str(tmp_path), safe]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.2


# ---- objects


def test_objects_are_saved_by_one_rank_of_the_run_or_of_each_machine(tmp_path: Path):
    for world, each, written in [
        (World(rank=1, world_size=2, local_rank=1, local_world_size=2), False, False),
        (World(rank=1, world_size=2, local_rank=0, local_world_size=1), False, False),
        (World(rank=1, world_size=2, local_rank=0, local_world_size=1), True, True),
        (World(), False, True),
    ]:
        with activate(Runtime(world)) as runtime:
            runtime._backend = Runtime(World()).backend  # nothing is sent
            runtime._backend.world = world
            file = tmp_path / f"{world.rank}-{world.local_rank}-{each}"
            save({"a": torch.ones(1)}, file, save_on_each_node=each)
            assert file.exists() == written


def test_objects_in_both_formats_and_in_open_files(runtime: Runtime, tmp_path: Path):
    tensor = torch.arange(3.0)
    save({"a": tensor, "again": tensor}, tmp_path / "safe", safe_serialization=True)
    assert torch.equal(load_file(tmp_path / "safe")["a"], tensor)
    save([tensor, "text"], tmp_path / "plain")
    assert torch.load(tmp_path / "plain")[1] == "text"
    with (tmp_path / "open").open("wb") as file:
        save(tensor, file)
    assert torch.equal(torch.load(tmp_path / "open"), tensor)
    for wrong, file in [(tensor, tmp_path / "a"), ({"a": tensor}, sys.stdout)]:
        with pytest.raises(CheckpointError, match="save"):
            save(wrong, file, safe_serialization=True)
    assert sorted(os.listdir(tmp_path)) == ["open", "plain", "safe"]
