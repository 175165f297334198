"""Several ranks, each with the real torch_xla on its CPU runtime; the tests' bridge stands in for XLA between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.spawn import SpawnSpawner

pytestmark = pytest.mark.xla

ROWS, STEPS, LARGEST_NORM = 40, 6, 0.05


def of_one_model(rows_a_batch: int) -> dict[str, Any]:
    """Train tied weights with accumulation and clipping, and give what this rank saw of it, in plain numbers."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    from notebook_accel import Accelerator, set_seed
    from notebook_accel.core.runtime import current
    from tests.xla import bodies
    from tests.xla.bridge import Bridge

    world = current().world
    bridge = Bridge.build(world) if world.device_kind == "xla" else None
    set_seed(3 + world.rank)  # weights of its own, until prepare brings it rank 0's
    model = bodies.TiedModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    set_seed(3)
    ids = torch.randint(10, (ROWS, 2), generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(ids[:, 0], ids[:, 1]), rows_a_batch, shuffle=True)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    found: dict[str, Any] = {
        "device": next(model.parameters()).device.type,
        "first weights": model.embedding.weight.detach().cpu().tolist(),
        "tied": model.head.weight is model.embedding.weight,
        "losses": [],
        "norms": [],
        "gradients": [],
    }
    for _ in range(2):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                found["gradients"].append(model.head.weight.grad.detach().cpu().tolist())
                if accelerator.sync_gradients:
                    found["norms"].append(accelerator.clip_grad_norm_(model.parameters(), LARGEST_NORM).item())
                optimizer.step()
                optimizer.zero_grad()
            found["losses"].append(accelerator.gather(loss.detach()).mean().item())
    found["weights"] = model.embedding.weight.detach().cpu().tolist()
    found["calls"] = {} if bridge is None else dict(bridge.calls)
    rows = accelerator.prepare(DataLoader(list(range(4 * world.world_size + 1)), batch_size=1))
    found["seen"] = [row for batch in rows for row in accelerator.gather_for_metrics(batch).tolist()]
    accelerator.wait_for_everyone()
    found["collectives"] = bodies.collectives() if bridge is not None else {}
    return found


def run(ranks: int, device_kind: str) -> list[dict[str, Any]]:
    asked = RunConfig(devices="cpu", num_processes=ranks, start_method="spawn")
    plan = make_plan(asked, Inventory(cpu_cores=ranks))
    on_xla = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}
    if device_kind == "xla":
        plan = replace(plan, device_kind="xla", environ={**plan.environ, **on_xla})
    return list(SpawnSpawner().start(plan, Call(of_one_model, (8 // ranks,))).result())


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process on the CPU finds with the batches of all ranks."""
    return run(1, "cpu")[0]


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run(request.param, "xla")


def test_all_train_the_model_that_one_process_trains(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for found in ranks:
        assert (found["device"], found["tied"]) == ("xla", True)
        assert found["first weights"] == alone["first weights"], "rank 0's, after prepare"
        assert found["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert flat(found["weights"]) == pytest.approx(flat(alone["weights"]), abs=1e-5)
        assert found["weights"] == ranks[0]["weights"]
    assert alone["losses"][-1] < alone["losses"][0]


def test_gradients_are_averaged_once_a_step_before_they_are_clipped(
    ranks: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    for found in ranks:
        assert len(found["norms"]) == STEPS
        assert found["norms"] == pytest.approx(alone["norms"], abs=1e-5), "of the average"
        assert min(found["norms"]) > LARGEST_NORM, "else nothing was clipped"
        assert (found["calls"]["all_reduce"], found["calls"]["collective_broadcast"]) == (STEPS, 1)


def test_gradients_stay_local_while_they_accumulate(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    local = [flat(found["gradients"][0]) for found in ranks]
    assert all(local[0] != pytest.approx(other, abs=1e-4) for other in local[1:])
    mean = [sum(values) / len(ranks) for values in zip(*local, strict=True)]
    assert mean == pytest.approx(flat(alone["gradients"][0]), abs=1e-6)
    for found in ranks:
        assert flat(found["gradients"][1]) == pytest.approx(flat(alone["gradients"][1]), abs=1e-6)


def test_every_sample_is_seen_once(ranks: list[dict[str, Any]]) -> None:
    assert [found["seen"] for found in ranks] == [list(range(4 * len(ranks) + 1))] * len(ranks)


def test_collectives_on_the_device(ranks: list[dict[str, Any]]) -> None:
    size = len(ranks)
    total = sum(range(size))
    for rank, found in enumerate(ranks):
        assert found["collectives"] == {
            "gather": [number + other for other in range(size) for number in range(3)],
            "sum": [number * size + total for number in range(3)],
            "mean": [number + total / size for number in range(3)],
            "max": [number + size - 1 for number in range(3)],
            "host": list(range(size)),
            "kind": (True, "XLA"),
            "objects": list(range(size)),
            "source": size - 1,
            "padded": [rank, rank + 1, rank + 2][: 1 + rank % 3] + [0] * (min(3, size) - 1 - rank % 3),
            "device": "xla",
        }


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]
