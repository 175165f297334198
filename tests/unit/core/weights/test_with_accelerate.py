"""Weights to and from Hugging Face Accelerate."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from notebook_accel import Accelerator, load_checkpoint_in_model
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.world import World
from tests.unit.core.weights.models import Spec, bag, contents, specs

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def _their_state() -> Iterator[None]:
    before = dict(os.environ)
    gc.freeze()  # they collect garbage after each file, which takes longer than all else
    yield
    gc.unfreeze()
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def theirs() -> object:
    return accelerate.Accelerator(cpu=True)


# Views of each other's memory, and all empty tensors but one, are dropped by them, in files with shards as well.
TIED = specs(kinds=("plain", "transposed", "again"), least=1)


@pytest.mark.filterwarnings("ignore:`_get_pg_default_device`")  # torch's, of what they call
@settings(max_examples=25, deadline=None)
@given(specs(), st.integers(1, 200), st.booleans())
def test_they_load_what_we_save(wanted: list[Spec], largest_bytes: int, safe: bool):
    with tempfile.TemporaryDirectory() as folder, activate(Runtime(World())):
        saved, loaded = bag(wanted, seed=1), bag(wanted, seed=2)
        assume(any(tensor.ndim for tensor in loaded.state_dict().values()))  # they cannot load scalars only
        Accelerator().save_model(saved, folder, largest_bytes, safe)
        accelerate.load_checkpoint_in_model(loaded, folder)
        assert contents(loaded) == contents(saved)


@settings(max_examples=25, deadline=None)
@given(specs(kinds=("plain", "transposed")), st.integers(1, 200), st.booleans())  # they do not tie buffers again
def test_they_load_what_we_save_to_devices(wanted: list[Spec], largest_bytes: int, safe: bool):
    with tempfile.TemporaryDirectory() as folder, activate(Runtime(World())):
        saved, loaded = bag(wanted, seed=1), bag(wanted, seed=2)
        Accelerator().save_model(saved, folder, largest_bytes, safe)
        accelerate.load_checkpoint_in_model(loaded, folder, device_map={"": "cpu"})
        assert contents(loaded) == contents(saved)


@settings(max_examples=25, deadline=None)
@given(TIED, st.integers(1, 200), st.booleans())
def test_we_load_what_they_save(wanted: list[Spec], largest_bytes: int, safe: bool):
    with tempfile.TemporaryDirectory() as folder, activate(Runtime(World())):
        saved, loaded = bag(wanted, seed=1), bag(wanted, seed=2)
        for tensor in [*saved.parameters(), *saved.buffers()]:
            tensor.data = tensor.data.contiguous()  # they refuse others
        if not wanted:
            return
        theirs().save_model(saved, folder, largest_bytes, safe)
        load_checkpoint_in_model(loaded, folder, strict=True)
        assert contents(loaded) == contents(saved)


@settings(max_examples=25, deadline=None)
@given(TIED.filter(bool), st.integers(1, 200), st.booleans())
def test_files_and_their_index_are_theirs(wanted: list[Spec], largest_bytes: int, safe: bool):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other, activate(Runtime(World())):
        model = bag(wanted, seed=1)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = tensor.data.contiguous()
        Accelerator().save_model(model, one, largest_bytes, safe)
        theirs().save_model(model, other, largest_bytes, safe)
        assert sorted(os.listdir(one)) == sorted(os.listdir(other))
        for path in Path(one).iterdir():
            if path.suffix == ".json":
                assert path.read_text() == Path(other, path.name).read_text()
            else:
                read = load_file if safe else torch.load
                mine, others = read(path), read(Path(other, path.name))
                assert mine.keys() == others.keys()
                assert all(torch.equal(mine[name].view(-1), others[name].view(-1)) for name in mine)
