"""Weights into models: where they go, what they become, what is refused before anything changes, and in what memory."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch import nn

from notebook_accel import (
    Accelerator,
    CheckpointError,
    CheckpointNotFound,
    ConfigError,
    NotAvailableError,
    load_checkpoint_in_model,
)
from notebook_accel.core.files.tensors import TensorFile, write_tensors
from notebook_accel.core.runtime import Runtime

ROOT = Path(__file__).parents[4]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == as_name and torch.equal(a, b) for (name, a), (as_name, b) in pairs)


@pytest.fixture
def saved(runtime: Runtime, tmp_path: Path) -> tuple[nn.Sequential, Path]:
    model = net()
    Accelerator().save_model(model, tmp_path / "saved", "60B")
    return model, tmp_path / "saved"


# ---- where weights are found


def test_a_file_an_index_and_a_folder(saved: tuple[nn.Module, Path], tmp_path: Path):
    model, folder = saved
    torch.save(model.state_dict(), tmp_path / "old.bin")
    torch.save(model.state_dict(), tmp_path / "older.bin", _use_new_zipfile_serialization=False)
    for checkpoint in (folder, str(folder / "model.safetensors.index.json"), tmp_path / "old.bin"):
        loaded = net()
        load_checkpoint_in_model(loaded, checkpoint, strict=True)
        assert same(loaded, model)
    loaded = net()
    load_checkpoint_in_model(loaded, tmp_path / "older.bin", strict=True)
    assert same(loaded, model)


def test_an_index_as_transformers_writes_it(runtime: Runtime, tmp_path: Path):
    model, state = net(), net().state_dict()
    model.load_state_dict(state)
    names = list(state)
    parts = {"model-00001-of-00002.safetensors": names[:3], "model-00002-of-00002.safetensors": names[3:]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, tmp_path / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    index = {"metadata": {"total_parameters": 99, "total_size": 999}, "weight_map": places}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    loaded = net()
    load_checkpoint_in_model(loaded, tmp_path, strict=True)
    assert same(loaded, model)


def test_a_model_whose_files_have_names_of_their_own(saved: tuple[nn.Module, Path]):
    model, folder = saved
    (folder / "model.safetensors.index.json").rename(folder / "mine.index.json")
    loaded = net()
    load_checkpoint_in_model(loaded, folder, strict=True)
    assert same(loaded, model)
    (folder / "yours.index.json").write_bytes((folder / "mine.index.json").read_bytes())
    with pytest.raises(CheckpointError, match="several models: mine.index.json, yours.index.json"):
        load_checkpoint_in_model(loaded, folder)


def test_what_is_not_there_is_said(saved: tuple[nn.Module, Path], tmp_path: Path):
    _, folder = saved
    for place, words in [(tmp_path / "none", "no file or folder"), (tmp_path, "holds no weights")]:
        with pytest.raises(CheckpointNotFound, match=words):
            load_checkpoint_in_model(net(), place)
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(CheckpointNotFound, match="index.json names model-00002-of"):
        load_checkpoint_in_model(net(), folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "\\xff"])
def test_an_index_that_is_none_is_an_error_that_names_it(runtime: Runtime, tmp_path: Path, text: str):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        load_checkpoint_in_model(net(), tmp_path)


@pytest.mark.parametrize("outside", ["../saved/{}", "{absolute}"])
def test_an_index_names_no_files_elsewhere(saved: tuple[nn.Module, Path], tmp_path: Path, outside: str):
    _, folder = saved
    shard = next(folder.glob("model-00001*"))
    (tmp_path / "evil").mkdir()
    named = outside.format(shard.name, absolute=shard)
    (tmp_path / "evil" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"0.weight": named}}))
    with pytest.raises(CheckpointError, match="outside of its folder"):
        load_checkpoint_in_model(net(), tmp_path / "evil")


def test_an_index_of_other_files_is_found_out(saved: tuple[nn.Module, Path]):
    _, folder = saved
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["0.ghost"] = index["weight_map"]["0.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="does not hold 0.ghost"):
        load_checkpoint_in_model(net(), folder)


# ---- damaged and malicious files


def test_a_file_cut_anywhere_is_an_error_that_names_it(runtime: Runtime, tmp_path: Path):
    for safe, name in [(True, "model.safetensors"), (False, "pytorch_model.bin")]:
        folder = tmp_path / name
        Accelerator().save_model(net(), folder, safe_serialization=safe)
        whole = (folder / name).read_bytes()
        for length in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
            (folder / name).write_bytes(whole[:length])
            model = net()
            before = {key: value.clone() for key, value in model.state_dict().items()}
            with pytest.raises(CheckpointError, match=name):
                load_checkpoint_in_model(model, folder)
            assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's, of what it refuses afterwards
@given(st.binary(max_size=64) | st.binary(max_size=64).map(b"\x80\x02".__add__))
def test_anything_may_be_in_a_file(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("any.safetensors", "any.bin"):
            Path(folder, name).write_bytes(content)
            with pytest.raises(CheckpointError, match=name):
                load_checkpoint_in_model(nn.Linear(1, 1), Path(folder, name))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil-was-here",)


def test_code_in_a_file_is_not_run(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "new.bin")
    torch.save({"weight": Evil()}, "old.bin", _use_new_zipfile_serialization=False)
    Path("plain.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    for name in ("new.bin", "old.bin", "plain.bin"):
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint_in_model(nn.Linear(1, 1), name)
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("thing", [[torch.ones(1)], torch.ones(1), {1: torch.ones(1)}, "text"])
def test_a_file_of_something_else_is_an_error(runtime: Runtime, tmp_path: Path, thing: object):
    torch.save(thing, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pytorch_model.bin holds a .*, not weights by name"):
        load_checkpoint_in_model(nn.Linear(1, 1), tmp_path)


# ---- names and shapes


def test_names_that_do_not_fit_are_all_said_before_anything_changes(runtime: Runtime, tmp_path: Path):
    save_file(
        {"weight": torch.ones(1, 1), "strange": torch.ones(1), "other": torch.ones(1)}, tmp_path / "a.safetensors"
    )
    model = nn.Linear(1, 1)
    before = model.weight.item()
    with pytest.raises(CheckpointError, match="it lacks bias; the model does not know (other, strange|strange, other)"):
        load_checkpoint_in_model(model, tmp_path / "a.safetensors", strict=True)
    assert model.weight.item() == before
    with pytest.warns(UserWarning, match="it lacks bias; the model does not know (other, strange|strange, other)"):
        load_checkpoint_in_model(model, tmp_path / "a.safetensors")
    assert model.weight.item() == 1


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes_are_all_said_before_anything_changes(runtime: Runtime, tmp_path: Path, strict: bool):
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(1)}, tmp_path / "a.safetensors")
    torch.save({"weight": torch.ones(2, 2), "bias": "text"}, tmp_path / "b.bin")
    model = nn.Linear(2, 2)
    before = model.weight.tolist()
    with pytest.raises(CheckpointError) as e:
        load_checkpoint_in_model(model, tmp_path / "a.safetensors", strict=strict)
    assert "bias is of shape (1,), but (2,) in the model (a.safetensors)" in str(e.value)
    assert "weight is of shape (2, 3), but (2, 2) in the model (a.safetensors)" in str(e.value)
    with pytest.raises(CheckpointError, match=r"bias is no tensor, but of shape \(2,\) in the model \(b.bin\)"):
        load_checkpoint_in_model(model, tmp_path / "b.bin", strict=strict)
    assert model.weight.tolist() == before


def test_prepared_and_compiled_models_take_the_names_of_plain_ones(saved: tuple[nn.Module, Path], tmp_path: Path):
    model, folder = saved
    loaded = torch.compile(net(), backend="eager")
    load_checkpoint_in_model(loaded, folder, strict=True)
    assert same(loaded._orig_mod, model)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(wrapped, tmp_path / "of_ddp.bin")
    loaded = net()
    load_checkpoint_in_model(loaded, tmp_path / "of_ddp.bin", strict=True)
    assert same(loaded, model)


def test_a_part_that_others_left_out_is_there_with_its_whole(runtime: Runtime, tmp_path: Path):
    def model(value: float) -> nn.Module:
        made, whole = nn.Module(), torch.full((6,), value)
        made.register_buffer("part", whole[1:3])
        made.register_buffer("whole", whole)
        return made

    save_model(model(3), tmp_path / "model.safetensors")  # keeps the whole only
    loaded = model(0)
    load_checkpoint_in_model(loaded, tmp_path, strict=True)
    assert loaded.part.tolist() == [3, 3]
    with pytest.raises(CheckpointError, match="it lacks part"):  # which shares no memory any more then
        load_checkpoint_in_model(model(0), tmp_path, dtype="bfloat16", strict=True)


def test_a_count_that_old_files_lack_is_not_missed(saved: tuple[nn.Module, Path], tmp_path: Path):
    model, _ = saved
    state = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.bin")
    load_checkpoint_in_model(net(), tmp_path / "old.bin", strict=True)


# ---- where weights go and what they become


def test_devices_by_the_beginning_of_names(saved: tuple[nn.Module, Path]):
    model, folder = saved
    for places in ({"": "cpu"}, {"0": "cpu", "1": torch.device("cpu"), "2": "cpu"}, {"": "cpu", "2.bias": "cpu"}):
        with torch.device("meta"):
            loaded = net()
        load_checkpoint_in_model(loaded, folder, device_map=places, strict=True)
        assert same(loaded, model)
    with pytest.raises(ConfigError, match="says nothing of '2.weight'"):
        load_checkpoint_in_model(net(), folder, device_map={"0": "cpu", "1": "cpu"})
    with pytest.raises(ConfigError, match="puts '0' on 'somewhere'"):
        load_checkpoint_in_model(net(), folder, device_map={"0": "somewhere"})
    with pytest.raises(ConfigError, match="not a device for each part"):
        load_checkpoint_in_model(net(), folder, device_map="auto")


def test_what_is_tied_goes_to_one_device(runtime: Runtime, tmp_path: Path):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    Accelerator().save_model(model, tmp_path)
    with pytest.raises(ConfigError, match="1.weight, the same tensor"):
        load_checkpoint_in_model(model, tmp_path, device_map={"0": "cpu", "1": "meta"})


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("places", [None, {"": "cpu"}])
def test_floating_point_weights_become_what_is_asked_for(
    runtime: Runtime, tmp_path: Path, places: dict[str, str] | None, safe: bool
):
    model = net()
    Accelerator().save_model(model, tmp_path, safe_serialization=safe)
    for dtype in ("bfloat16", "torch.bfloat16", torch.bfloat16):
        loaded = net()
        weight = loaded[0].weight
        load_checkpoint_in_model(loaded, tmp_path, places, dtype=dtype, keep_in_fp32_modules=["2"], strict=True)
        assert loaded[0].weight is weight  # what an optimizer holds
        assert torch.equal(weight, model[0].weight.bfloat16())
        assert torch.equal(loaded[2].weight, model[2].weight)
        assert loaded[1].num_batches_tracked.dtype is torch.int64
    for wrong in ("nonsense", "int8", torch.int8, 3):
        with pytest.raises(ConfigError, match="no floating-point type"):
            load_checkpoint_in_model(net(), tmp_path, dtype=wrong)


def test_the_model_keeps_its_types_unless_others_are_asked_for(saved: tuple[nn.Module, Path]):
    model, folder = saved
    loaded = net().half()
    load_checkpoint_in_model(loaded, folder, strict=True)
    assert torch.equal(loaded[0].weight, model[0].weight.half())


def test_gradients_go_with_their_weights(saved: tuple[nn.Module, Path]):
    _, folder = saved
    loaded = net()
    loaded(torch.ones(2, 3)).sum().backward()
    load_checkpoint_in_model(loaded, folder, dtype=torch.float64)
    assert loaded[0].weight.grad.dtype is torch.float64


def test_a_graph_notices_that_its_weights_are_others(saved: tuple[nn.Module, Path]):
    _, folder = saved
    model = net().eval()
    loss = model(torch.ones(2, 3, requires_grad=True)).sum()
    load_checkpoint_in_model(model, folder)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_large_tensor_is_converted_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("notebook_accel.core.files.tensors._PIECE_BYTES", 64)
    for values in (torch.arange(100.0).view(10, 10), torch.zeros(0, 3), torch.tensor(3.0)):
        path = tmp_path / f"{values.numel()}.safetensors"
        write_tensors(path, {"flag": torch.ones(3, dtype=torch.bool), "a": values})
        for target in (
            torch.empty(values.shape, dtype=torch.int32),
            torch.empty(values.shape[::-1]).mT if values.ndim else torch.empty(()),
        ):
            TensorFile(path).read_into("a", target)
            assert torch.equal(target.to(values.dtype), values)


def test_a_file_stays_what_it_was_when_another_gets_its_name(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.arange(3.0)})
    before = TensorFile(path)
    path.unlink()
    write_tensors(path, {"b": torch.zeros(3), "a": torch.zeros(3)})
    target = torch.empty(3)
    before.read_into("a", target)
    assert target.tolist() == [0, 1, 2]


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.arange(3.0)})
    file = TensorFile(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="a.safetensors ends before all of its tensors"):
        file.read_into("a", torch.empty(3))


def test_a_conjugated_weight_is_loaded(runtime: Runtime, tmp_path: Path):
    model, other = nn.Module(), nn.Module()
    model.register_buffer("a", torch.tensor([1 + 2j]).conj())
    other.register_buffer("a", torch.tensor([0j]).conj())
    Accelerator().save_model(model, tmp_path)
    load_checkpoint_in_model(other, tmp_path, strict=True)
    assert other.a.tolist() == [1 - 2j]


@pytest.mark.parametrize(
    "asked",
    [
        {"offload_folder": "x"},
        {"offload_8bit_bnb": True},
        {"full_state_dict": False},
        {"broadcast_from_rank0": True},
        {"device_map": {"": "disk"}},
    ],
)
def test_what_is_not_built_says_so(saved: tuple[nn.Module, Path], asked: dict[str, object]):
    with pytest.raises(NotAvailableError, match=r"not built here"):
        load_checkpoint_in_model(net(), saved[1], **asked)


# ---- modules that load in their own way


class Renamed(nn.Linear):
    """A layer whose weight had another name once."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.register_load_state_dict_pre_hook(self._renamed)

    @staticmethod
    def _renamed(module: nn.Module, state: dict[str, object], prefix: str, *others: object) -> None:
        if f"{prefix}kernel" in state:
            state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("places", [None, {"": "cpu"}])
def test_modules_that_load_in_their_own_way_do_so(
    runtime: Runtime, tmp_path: Path, device: str, places: dict[str, str] | None
):
    weight, first = torch.randn(2, 2), torch.randn(2, 2)
    state = {
        "0.weight": first,
        "1.kernel": weight,
        "1.bias": torch.ones(2),
        "2._extra_state": 7,
        "0.bias": torch.ones(2),
    }
    torch.save(state, tmp_path / "pytorch_model.bin")
    with torch.device(device):
        model = nn.Sequential(nn.Linear(2, 2), Renamed(2), Counting())
    load_checkpoint_in_model(model, tmp_path, places, strict=True)
    assert torch.equal(model[1].weight, weight)
    assert torch.equal(model[0].weight, first)
    assert model[2].count == 7
    del state["1.bias"]
    torch.save({**state, "1.strange": weight}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"it lacks 1.bias; the model does not know 1.strange"):
        load_checkpoint_in_model(model, tmp_path, strict=True)
    torch.save({**state, "1.bias": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"size mismatch for bias"):
        load_checkpoint_in_model(model, tmp_path)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ["0.weight", "1.weight"])
def test_what_they_hold_is_tied_again(runtime: Runtime, tmp_path: Path, device: str, name: str):
    with torch.device(device):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), Renamed(2), Renamed(2))
    model[1].weight = model[2].weight = model[0].weight
    save_file(
        {name: torch.ones(2, 2), "1.bias": torch.ones(2), "2.bias": torch.ones(2)}, tmp_path / "model.safetensors"
    )
    load_checkpoint_in_model(model, tmp_path, strict=True)
    assert model[1].weight is model[0].weight is model[2].weight
    assert model[0].weight.tolist() == [[1, 1], [1, 1]]


# ---- memory

PEAK = """
import resource, sys, torch
from torch import nn
from notebook_accel import load_checkpoint_in_model
with torch.device(sys.argv[2]):
    model = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(24)])
if sys.argv[2] == "cpu":
    for parameter in model.parameters():
        parameter.data.fill_(1)
load_checkpoint_in_model(nn.Linear(1, 1), sys.argv[1] + "-small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_checkpoint_in_model(model, sys.argv[1], *([{"": "cpu"}] if sys.argv[3] == "mapped" else []), strict=True)
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(1024 * more / sum(parameter.nbytes for parameter in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(("device", "places", "most"), [("cpu", "mapped", 0.2), ("meta", "as it is", 1.2)])
def test_a_model_needs_memory_once(runtime: Runtime, tmp_path: Path, safe: bool, device: str, places: str, most: float):
    model = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(24)])
    Accelerator().save_model(model, tmp_path / "weights", safe_serialization=safe)
    Accelerator().save_model(nn.Linear(1, 1), tmp_path / "weights-small", safe_serialization=safe)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "weights"), device, places]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most
