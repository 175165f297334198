from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notebook_accel import Accelerator, DistributedType
from notebook_accel.core import operations
from notebook_accel.core.compiling import TorchDynamoPlugin
from notebook_accel.core.handlers import AutocastKwargs
from notebook_accel.core.plugins import DataLoaderConfiguration, GradientAccumulationPlugin, ProjectConfiguration
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.core.splitting import part_of
from notebook_accel.core.states import AcceleratorState, GradientState, PartialState
from notebook_accel.errors import ConfigError
from notebook_accel.world import World
from tests.ranks import RunOnRanks

SCRIPT = """
import os, sys
from notebook_accel import Accelerator, DistributedType, PartialState
accelerator = Accelerator()
assert accelerator.distributed_type == (DistributedType.MULTI_CPU if accelerator.num_processes > 1 else "NO")
assert PartialState().process_index == accelerator.process_index == accelerator.state.process_index
sys.stdout.write(f"{accelerator.num_processes}\\n")
sys.stdout.flush()
os._exit(0)  # torch ends some processes that have a gloo group by SIGABRT when they exit
"""


@given(st.integers(0, 12), st.integers(1, 5), st.booleans())
def test_parts_make_the_whole(length: int, ranks: int, pad: bool):
    for whole in (list(range(length)), tuple(range(length)), torch.arange(length), np.arange(length)):
        parts = [part_of(whole, rank, ranks, pad=pad) for rank in range(ranks)]
        assert all(type(part) is type(whole) for part in parts)
        joined = [int(item) for part in parts for item in part]
        if pad and length:
            assert len({len(part) for part in parts}) == 1
            assert sorted(set(joined)) == list(range(length))
            assert joined.count(length - 1) - 1 == len(joined) - length
        else:
            assert joined == list(range(length))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_dicts_are_split_value_by_value():
    assert part_of({"x": [1, 2, 3], "y": torch.ones(3, 2)}, 1, 2)["y"].shape == (1, 2)
    with pytest.raises(ConfigError, match="differ in length"):
        part_of({"x": [1], "y": [1, 2]}, 0, 2)
    for wrong in ("text", 3, torch.tensor(1), iter([1])):
        with pytest.raises(ConfigError, match="no parts"):
            part_of(wrong, 0, 2)


def test_functions_for_some_ranks_only():
    seen = {}
    for rank in range(3):
        with activate(Runtime(World(rank=rank, local_rank=rank))) as runtime:
            accelerator = Accelerator()
            object.__setattr__(runtime.world, "world_size", 3)  # three ranks, none of which talks
            object.__setattr__(runtime.world, "local_world_size", 3)

            def name() -> int:
                return accelerator.process_index  # noqa: B023 - called at once

            seen[rank] = [
                accelerator.on_main_process(name)(),
                accelerator.on_local_main_process(name)(),
                accelerator.on_last_process(name)(),
                accelerator.on_process(name, process_index=1)(),
                accelerator.on_process(process_index=1)(name)(),
                accelerator.on_local_process(local_process_index=2)(name)(),
            ]
            for wrong in (3, -1, None):
                with pytest.raises(ConfigError, match="run of 3"):
                    accelerator.on_process(name, process_index=wrong)
    assert seen == {
        0: [0, 0, None, None, None, None],
        1: [None, None, None, 1, 1, None],
        2: [None, None, 2, None, None, 2],
    }


def test_views_of_the_run(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    assert accelerator.distributed_type == DistributedType.NO
    assert not accelerator.use_distributed
    assert not accelerator.multi_device
    state = AcceleratorState()
    assert (state.num_processes, state.backend, state.debug, state.initialized) == (1, None, False, True)
    assert accelerator.state.mixed_precision == "bf16"
    gradients = accelerator.gradient_state
    assert (gradients.num_steps, gradients.sync_gradients, gradients.adjust_scheduler) == (2, True, True)
    assert (gradients.sync_with_dataloader, gradients.in_dataloader, gradients.remainder) == (True, False, -1)
    loader = accelerator.prepare(torch.utils.data.DataLoader(range(4), batch_size=2))
    assert [gradients.end_of_dataloader for _ in loader] == [False, True]
    assert [gradients.active_dataloader is loader for _ in loader] == [True, True]
    assert gradients.active_dataloader is None
    for view in (PartialState, AcceleratorState, GradientState):
        view._reset_state()
    assert PartialState().num_processes == 1
    with pytest.raises(ConfigError, match=r"accelerator\.gradient_state"):
        GradientState()
    PartialState().destroy_process_group()
    assert DistributedType("XLA") is DistributedType.TPU


def test_structures_without_an_accelerator(runtime: Runtime):
    data = {"x": torch.ones(2, 3), "name": "a", "pair": (torch.zeros(2), 1)}
    assert operations.find_batch_size(data) == 2
    assert operations.find_device(data) == torch.device("cpu")
    assert operations.find_batch_size("text") is None
    assert operations.slice_tensors(data, slice(0, 1))["pair"][0].shape == (1,)
    assert operations.send_to_device(data, "meta", skip_keys=["x"])["x"].device.type == "cpu"
    assert operations.send_to_device(data, "meta")["pair"][0].device.type == "meta"
    joined = operations.concatenate([{"x": torch.ones(1)}, {"x": torch.zeros(2)}])
    assert joined["x"].tolist() == [1, 0, 0]
    for wrong in ([], [{"x": torch.ones(1)}, {"y": torch.ones(1)}], [["text"]]):
        with pytest.raises(ConfigError, match="concatenate"):
            operations.concatenate(wrong)
    with pytest.raises(ConfigError, match=r"str at \['name'\]"):
        operations.recursively_apply(lambda leaf: leaf, data, error_on_other_type=True)
    half = operations.convert_outputs_to_fp32(lambda: {"y": torch.ones(1, dtype=torch.bfloat16)})
    assert half()["y"].dtype == torch.float32
    model = torch.nn.Linear(1, 1)
    assert operations.extract_model_from_parallel(model) is model
    assert operations.gather(torch.ones(1)).tolist() == [1]
    assert operations.reduce(torch.ones(1)).tolist() == [1]
    with pytest.raises(ConfigError, match="no rank 1"):
        operations.broadcast(torch.ones(1), from_process=1)


def verbs_of_several_ranks() -> None:
    accelerator = Accelerator()
    rank, size = accelerator.process_index, accelerator.num_processes
    assert accelerator.distributed_type == DistributedType.MULTI_CPU
    assert accelerator.use_distributed
    assert not accelerator.multi_device
    with accelerator.split_between_processes([0, 1, 2], apply_padding=True) as part:
        assert accelerator.gather(torch.tensor(part)).tolist() == [0, 1, 2, 2]
    assert not accelerator.check_trigger()
    if rank == size - 1:
        accelerator.set_trigger()
    assert accelerator.check_trigger()
    assert not accelerator.check_trigger()
    things = [rank, {"rank": rank}]
    assert operations.broadcast_object_list(things, from_process=1) is things
    assert things == [1, {"rank": 1}]
    with pytest.raises(ConfigError, match="list of"):
        operations.broadcast_object_list([None] * (2 + rank), from_process=rank and 0)
        raise ConfigError("rank 0 sends a list of its own length", "none")
    assert operations.gather_object([rank]) == list(range(size))
    order: list[int] = []
    with accelerator.local_main_process_first():
        order = operations.gather_object([]) if size == 1 else [rank]
    assert order == [rank]
    operations.wait_for_everyone()


def test_on_two_ranks(run_on_ranks: RunOnRanks):
    assert len(run_on_ranks(verbs_of_several_ranks)) == 2


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_script_is_what_it_was_started_as(tmp_path: Path, ranks: int):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(ranks)] * ranks


def test_arguments_may_stand_in_the_places_that_users_of_accelerate_know(runtime: Runtime):
    configuration = ProjectConfiguration("runs", "logs", True, 2)
    assert configuration == ProjectConfiguration(
        project_dir="runs", logging_dir="logs", automatic_checkpoint_naming=True, total_limit=2
    )
    assert GradientAccumulationPlugin(2, False) == GradientAccumulationPlugin(num_steps=2, adjust_scheduler=False)
    assert DataLoaderConfiguration(True, None, False) == DataLoaderConfiguration(split_batches=True, even_batches=False)
    assert AutocastKwargs(False) == AutocastKwargs(enabled=False)
    assert TorchDynamoPlugin("eager") == TorchDynamoPlugin(backend="eager")
    accelerator = Accelerator(True, False, "bf16", 2, True)
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 2)


def test_a_view_joins_the_ranks_as_it_is_told(runtime: Runtime):
    assert PartialState(timeout=timedelta(minutes=5), backend="gloo").num_processes == 1
    with pytest.raises(ConfigError, match="joined already"):
        PartialState(timeout=timedelta(minutes=1))
    assert AcceleratorState().num_processes == 1
    with pytest.raises(ConfigError, match=r"(?s)AcceleratorState\(\) has no argument 'timeout_seconds'.*timeout"):
        AcceleratorState(timeout_seconds=60)
