"""Several ranks, on a FAKE of torch_xla: gloo in the place of XLA, so what a TPU computes is not shown here."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import LaunchError, NotAvailableError, RankFailed
from notebook_accel.launch.job import Call
from notebook_accel.launch.xla import XlaSpawner
from tests.xla import bodies
from tests.xla.chips import FAKE_FOLDER, plan_on_chips

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKE_FOLDER)


def run(function, *args, chips: int = 2, variables: dict[str, str] | None = None, **config) -> list[Any]:
    plan = plan_on_chips(RunConfig(**config), chips, **(variables or {}))
    return list(XlaSpawner().start(plan, Call(function, args)).result())


def rank_logic():
    import os

    import torch
    import torch_xla
    from torch import nn
    from torch.utils.data import DataLoader

    from notebook_accel import Accelerator

    assert torch_xla.IS_A_FAKE
    accelerator = Accelerator(gradient_accumulation_steps=2)
    rank, size = accelerator.process_index, accelerator.num_processes
    found: dict[str, Any] = {"rank": rank, "first process": os.environ["PJRT_LOCAL_PROCESS_RANK"]}
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0 + rank)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
    found["weight of rank 0"] = model.weight.item()
    mine = torch.tensor([[1.0 + rank]])
    with accelerator.accumulate(model):
        accelerator.backward(model(mine).sum())
        found["local"] = model.weight.grad.item()
        optimizer.step()
    with accelerator.accumulate(model):
        accelerator.backward(model(mine).sum())
        found["averaged"] = model.weight.grad.item()
        found["norm"] = accelerator.clip_grad_norm_(model.parameters(), 0.5).item()
        optimizer.step()
    found["after"] = model.weight.item()
    larger = accelerator.prepare_model(nn.Linear(3, 2))
    assert accelerator._backend.wrap_model(larger) is larger
    loader = accelerator.prepare(DataLoader(list(range(4 * size + 1)), batch_size=1))
    seen = [accelerator.gather_for_metrics(batch).tolist() for batch in loader]
    found["seen"] = [row for rows in seen for row in rows]
    accelerator.wait_for_everyone()
    return found, bodies.collectives()


@pytest.mark.parametrize("chips", [2, 8])
def test_ranks_share_gradients_data_and_objects(chips: int):
    results = run(rank_logic, chips=chips)
    mean = (1 + chips) / 2
    for rank, (found, collectives) in enumerate(results):
        assert found["rank"] == rank
        assert found["first process"] == str(chips - 1 - rank), "a rank is what the runtime says, not who came first"
        assert found["weight of rank 0"] == 3.0
        assert found["local"] == pytest.approx((1 + rank) / 2)
        assert found["averaged"] == found["norm"] == pytest.approx(mean), "averaged before it is clipped"
        assert found["after"] == pytest.approx(2.5)
        assert found["seen"] == list(range(4 * chips + 1)), "every sample once"
        total = sum(range(chips))
        assert collectives == {
            "gather": [number + other for other in range(chips) for number in range(3)],
            "sum": [number * chips + total for number in range(3)],
            "mean": [number + total / chips for number in range(3)],
            "max": [number + chips - 1 for number in range(3)],
            "host": list(range(chips)),
            "kind": (True, "XLA"),
            "objects": list(range(chips)),
            "source": chips - 1,
            "padded": [rank, rank + 1, rank + 2][: 1 + rank % 3] + [0] * (min(3, chips) - 1 - rank % 3),
            "device": "cpu",
        }


def keep_promises():
    from notebook_accel.core.runtime import current
    from tests.contracts.test_backend import failures_of

    return current().backend.name, failures_of(current().backend)


@pytest.mark.parametrize("chips", [1, 2])
def test_the_promises_of_every_backend_are_kept(chips: int):
    assert run(keep_promises, chips=chips) == [("xla", {})] * chips


def train_like_one():
    losses, state = bodies.train()
    return losses, {name: value.tolist() for name, value in state.items()}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_all_ranks_train_one_model(method: str):
    (_, first), (_, second) = run(train_like_one, start_method=method)
    assert first == second


def test_a_folder_that_cannot_be_written_is_said_and_no_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", "/proc/nowhere")
    result = XlaSpawner().start(plan_on_chips(RunConfig(), 2), Call(own_rank)).result()
    assert list(result) == ["0", "1"]
    assert "programs are not kept for the next launch (No such file or directory: /proc/nowhere)" in result.logs(0)
    assert result.logs(1) == ""


def own_rank():
    import os

    return os.environ["RANK"]


def fail_on_one():
    import os
    import time

    if os.environ["RANK"] == "1":
        raise ValueError("the cause")
    time.sleep(600)


def test_the_first_failure_ends_the_others():
    with pytest.raises(RankFailed, match="rank 1 of 2 failed first: ValueError: the cause"):
        run(fail_on_one)


def test_a_runtime_that_aborts_is_a_rank_that_was_killed():
    with pytest.raises(RankFailed, match="SIGABRT") as caught:
        run(fail_on_one, variables={"FAKE_XLA_ABORTS": "1"})
    assert "TPU initialization failed: made up" in "".join(caught.value.result.logs(rank) for rank in (0, 1))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"FAKE_XLA_DEVICES": "2"}, "one process has 2 XLA devices"),
        ({"FAKE_XLA_PROCESSES": "1"}, "the XLA runtime has 1 devices, not 2"),
        ({"FAKE_XLA_PROCESSES": "3"}, "torch_xla starts more than the 2 processes of the run"),
    ],
)
def test_a_world_that_is_not_the_plans_is_refused(variables: dict[str, str], said: str):
    with pytest.raises(LaunchError, match=said):
        run(fail_on_one, variables=variables)


def test_a_kernel_that_has_used_the_chips_is_told_so(monkeypatch: pytest.MonkeyPatch):
    in_use = types.ModuleType("torch_xla")
    in_use.__spec__ = ModuleSpec("torch_xla", None)
    in_use._XLAC = types.SimpleNamespace(_xla_runtime_is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "torch_xla", in_use)
    plan = plan_on_chips(RunConfig(), 2)
    with pytest.raises(NotAvailableError, match="which so holds the TPU's chips") as caught:
        XlaSpawner().start(plan, Call(fail_on_one))
    assert "restart the kernel" in caught.value.hint
    rehearsal = replace(plan, environ={**plan.environ, "PJRT_DEVICE": "CPU"})
    XlaSpawner().pack(rehearsal, Call(fail_on_one)).close()


def wait_for_the_others():
    import os

    from notebook_accel import Accelerator

    accelerator = Accelerator()
    print("ready", flush=True)
    if os.environ["RANK"] == "0":
        accelerator.wait_for_everyone()
    else:
        while True:
            pass


def test_a_rank_that_waits_for_another_is_woken():
    run = XlaSpawner().start(plan_on_chips(RunConfig(), 2), Call(wait_for_the_others))
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("ready") == 2:
            run.interrupt()
    assert run.state == "interrupted"


@pytest.mark.parametrize("order", ["interrupt", "kill", "time"])
def test_a_run_can_be_ended_while_it_starts(order: str):
    config = RunConfig(timeout_seconds=0.05) if order == "time" else RunConfig()
    run = XlaSpawner().start(plan_on_chips(config, 2), Call(fail_on_one))
    if order != "time":
        getattr(run, order)()
    assert run.wait(15)
    assert run.state == ("timed out" if order == "time" else "interrupted")
