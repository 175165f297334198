"""Logging, bars, profiles, generators, local SGD and trackers."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.handlers import ProfileKwargs
from notebook_accel.core.local_sgd import LocalSGD
from notebook_accel.core.logs import get_logger
from notebook_accel.core.progress import tqdm
from notebook_accel.core.rng import RNGType, synchronize_rng_states
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.core.trackers.base import GeneralTracker, flat
from notebook_accel.core.trackers.registry import TRACKERS, is_installed, register_tracker_class
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.world import World
from tests.ranks import RunOnRanks


class Kept(GeneralTracker):
    name, requires_logging_directory = "kept", False

    def __init__(self, project: str = "own", **options: Any) -> None:
        self.told: list[Any] = [project, options]

    @property
    def tracker(self) -> list[Any]:
        return self.told

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.told.append(("config", dict(values)))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.told.append((step, dict(values), kwargs))

    def finish(self) -> None:
        self.told.append("finished")


WANDB = """
import sys
from notebook_accel import Accelerator
accelerator = Accelerator(cpu=True, log_with="wandb")
accelerator.init_trackers("run", {"lr": 0.1}, {"wandb": {"mode": "offline", "dir": sys.argv[1]}})
accelerator.log({"loss": 0.5}, step=1)
assert accelerator.get_tracker("wandb", unwrap=True).config["lr"] == 0.1
accelerator.end_training()
"""

# ---- trackers


def test_a_tracker_of_ones_own(runtime: Runtime):
    kept = Kept()
    accelerator = Accelerator(log_with=[kept])
    accelerator.log({"before": 1})
    accelerator.init_trackers("project", config={"lr": 0.1})
    accelerator.log({"loss": torch.tensor(0.5), "text": "a"}, step=3, log_kwargs={"kept": {"note": 1}})
    assert accelerator.get_tracker("kept") is kept
    assert accelerator.get_tracker("kept", unwrap=True) is kept.told
    assert (accelerator.trackers, accelerator.log_with) == ([kept], ["kept"])
    accelerator.end_training()
    assert kept.told[2:] == [
        ("config", {"lr": 0.1}),
        (3, {"loss": 0.5, "text": "a"}, {"note": 1}),
        "finished",
    ]
    assert accelerator.trackers == []
    with pytest.raises(ConfigError, match=r"no tracker 'wandb'.*has kept"):
        accelerator.get_tracker("wandb")
    with pytest.raises(ConfigError, match="init_kwargs are for 'wandb'"):
        accelerator.init_trackers("project", init_kwargs={"wandb": {}})


def test_trackers_are_rank_0s():
    for rank, started in ((0, 1), (1, 0)):
        with activate(Runtime(World(rank=rank, local_rank=rank))):
            accelerator = Accelerator(log_with=Kept())
            accelerator.init_trackers("project")
            assert len(accelerator.trackers) == started
            assert (accelerator.get_tracker("kept") is None) == (rank == 1)


def test_a_registered_tracker_is_made_by_name(runtime: Runtime):
    try:
        assert register_tracker_class(Kept) is Kept
        accelerator = Accelerator(log_with="kept")
        accelerator.init_trackers("project", init_kwargs={"kept": {"entity": "me"}})
        assert accelerator.get_tracker("kept").told == ["project", {"entity": "me"}]
        with pytest.raises(ConfigError, match="name of its own"):
            register_tracker_class(type("Other", (Kept,), {}))
    finally:
        del TRACKERS["kept"]


def test_what_log_with_refuses(runtime: Runtime, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"(?s)unknown tracker 'visdom'.*tensorboard"):
        Accelerator(log_with="visdom")
    missing = next(name for name in TRACKERS if not is_installed(name))
    with pytest.raises(NotAvailableError, match=f"pip install {missing}"):
        Accelerator(log_with=missing, project_dir=tmp_path)
    assert Accelerator(log_with="all", project_dir=tmp_path).log_with == [
        name for name in TRACKERS if is_installed(name)
    ]


@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_metrics_are_kept_in_a_file_and_continued(name: str, runtime: Runtime, tmp_path: Path):
    with pytest.raises(ConfigError, match="project_dir"):
        Accelerator(log_with=name)
    for step in (1, 2):  # the second as a run that goes on does
        accelerator = Accelerator(log_with=name, project_dir=tmp_path)
        accelerator.init_trackers("run", config={"lr": 0.1, "model": {"layers": 2}})
        accelerator.log({"loss": torch.tensor(0.5 * step)}, step=step)
        if step == 2:
            accelerator.log({"by": {"class": 1.0}, "list": torch.ones(2), "note": 'a, "b"'})
        accelerator.end_training()
    text = (tmp_path / "run" / f"metrics.{name}").read_text()
    if name == "jsonl":
        assert [json.loads(line) for line in text.splitlines()] == [
            {"step": 1, "loss": 0.5},
            {"step": 2, "loss": 1.0},
            {"step": None, "by": {"class": 1.0}, "list": [1.0, 1.0], "note": 'a, "b"'},
        ]
    else:
        assert list(csv.reader(text.splitlines())) == [
            ["step", "loss", "by/class", "list", "note"],
            ["1", "0.5", "", "", ""],
            ["2", "1.0", "", "", ""],
            ["", "", "1.0", "[1.0, 1.0]", 'a, "b"'],
        ]
    assert json.loads((tmp_path / "run" / "hparams.json").read_text()) == {"lr": 0.1, "model": {"layers": 2}}


@pytest.mark.skipif(not is_installed("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_writes_events(runtime: Runtime, tmp_path: Path):
    with pytest.raises(ConfigError, match="project_dir"):
        Accelerator(log_with="tensorboard")
    accelerator = Accelerator(log_with="tensorboard", project_dir=tmp_path)
    assert accelerator.logging_dir == accelerator.project_dir == tmp_path
    accelerator.init_trackers("run", config={"model": {"layers": 2}, "list": [1]})
    accelerator.log({"loss": torch.tensor(0.5), "note": "text", "both": {"a": 1.0, "b": 2.0}}, step=1)
    accelerator.get_tracker("tensorboard").log_images({"image": torch.zeros(1, 3, 4, 4)}, step=1)
    accelerator.end_training()
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    assert json.loads((tmp_path / "run" / "hparams.json").read_text()) == {"model/layers": 2, "list": "[1]"}


@pytest.mark.skipif(not is_installed("wandb"), reason="wandb is not installed")
def test_wandb_writes_offline(tmp_path: Path):
    done = subprocess.run(  # its service outlives a run
        [sys.executable, "-c", WANDB, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_nested_settings_become_flat():
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a/b/c": 1, "d": 2}


# ---- logging and bars


def test_loggers_know_their_rank(caplog: pytest.LogCaptureFixture):
    logger = get_logger("tests.rank", log_level="info")
    try:
        logger.info("nobody runs yet")
        for rank in (0, 1):
            with activate(Runtime(World(rank=rank, local_rank=rank, world_size=2))):
                logger.info("main %d", rank)
                logger.warning("every %d", rank, main_process_only=False)
                for _ in range(2):
                    logger.warning_once("once %d", rank, main_process_only=False)
                logger.debug("not heard")
    finally:
        logging.getLogger().setLevel(logging.WARNING)
    assert caplog.messages == ["nobody runs yet", "main 0", "every 0", "once 0", "every 1", "once 1"]
    assert {record.filename for record in caplog.records} == {"test_around_training.py"}


def test_bars_are_drawn_on_one_rank(capsys: pytest.CaptureFixture[str]):
    for rank in (0, 1):
        with activate(Runtime(World(rank=rank, local_rank=rank, world_size=2, local_world_size=2))):
            assert list(tqdm(range(2), desc=f"rank {rank}")) == [0, 1]
            assert list(tqdm(range(2), desc=f"all {rank}", main_process_only=False)) == [0, 1]
    drawn = capsys.readouterr().err
    assert [f"rank {rank}" in drawn for rank in (0, 1)] == [True, False]
    assert [f"all {rank}" in drawn for rank in (0, 1)] == [True, True]


# ---- profiles and generators


def test_a_profile_is_written(runtime: Runtime, tmp_path: Path):
    handler = ProfileKwargs(activities=["cpu"], record_shapes=True, output_trace_dir=str(tmp_path / "traces"))
    with Accelerator(kwargs_handlers=[handler]).profile() as profiler:
        torch.ones(2, 3) @ torch.ones(3, 1)
    assert any("aten::mm" in event.key for event in profiler.key_averages())
    assert json.loads((tmp_path / "traces" / "profile_0.json").read_text())["traceEvents"]
    with pytest.raises(ConfigError, match="'gpu'"), Accelerator().profile(ProfileKwargs(activities=["gpu"])):
        pass


def test_kinds_of_generators(runtime: Runtime):
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    synchronize_rng_states(["torch", RNGType.GENERATOR], generator)
    assert torch.equal(before, generator.get_state())
    with pytest.raises(ConfigError, match="'numpy'"):
        synchronize_rng_states(["numpy"])
    with pytest.raises(ConfigError, match="no generator"):
        synchronize_rng_states(["generator"])
    with pytest.raises(ConfigError, match="'numpy'"):
        Accelerator(rng_types=["numpy"])


# ---- two ranks


def generators_come_in_step() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    torch.manual_seed(rank)
    generator = torch.Generator().manual_seed(rank)
    synchronize_rng_states(["torch", "generator"], generator)
    drawn = accelerator.gather(torch.stack([torch.rand(1), torch.rand(1, generator=generator)])[None])
    assert torch.equal(drawn[0], drawn[1])


def ranks_train_apart_and_average() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    inner = nn.Linear(1, 1, bias=False)
    model, optimizer = accelerator.prepare(inner, SGD(inner.parameters(), lr=0.1))
    with torch.no_grad():
        inner.weight.fill_(1.0)
    expected = [1.0, 1.0]
    with LocalSGD(accelerator, model, local_sgd_steps=2) as local_sgd:
        for step in range(5):
            accelerator.backward(model(torch.tensor([[1.0 + rank]])).sum())
            optimizer.step()
            optimizer.zero_grad()
            local_sgd.step()
            expected = [weight - 0.1 * (1 + of_rank) for of_rank, weight in enumerate(expected)]
            if step % 2:
                expected = [sum(expected) / 2] * 2
            assert inner.weight.item() == pytest.approx(expected[rank], abs=1e-6)
    assert inner.weight.item() == pytest.approx(sum(expected) / 2, abs=1e-6)
    accelerator.backward(model(torch.tensor([[1.0 + rank]])).sum())
    assert inner.weight.grad.item() == pytest.approx(1.5), "gradients are exchanged again"
    with pytest.raises(ConfigError, match="local_sgd_steps"):
        LocalSGD(accelerator, model, local_sgd_steps=0)


def logs_come_in_order() -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    Accelerator()
    logger = get_logger("tests.order", log_level="INFO")
    logger.logger.addHandler(handler)
    logger.info("here", main_process_only=False, in_order=True)
    assert lines == ["here"]


@pytest.mark.slow
def test_on_two_ranks(run_on_ranks: RunOnRanks):
    bodies = (generators_come_in_step, ranks_train_apart_and_average, logs_come_in_order)
    assert len(run_on_ranks(*bodies)) == 2
