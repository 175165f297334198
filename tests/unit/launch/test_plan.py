from __future__ import annotations

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError
from notebook_accel.hardware.inventory import Device, Inventory
from notebook_accel.launch.plan import make_plan


@pytest.mark.parametrize(
    ("config", "machine", "text", "size"),
    [
        ({}, {"cpu_cores": 1}, "1 CPU process", 1),
        ({}, {"cpu_cores": 64}, "2 CPU processes, gloo", 2),
        ({"num_processes": 4}, {"cpu_cores": 2}, "4 CPU processes, gloo", 4),
        ({}, {"gpus": 4}, "4 GPU processes, nccl (Made-up GPU)", 4),
        ({"num_processes": 2}, {"gpus": 4}, "2 GPU processes, nccl (Made-up GPU)", 2),
        ({"mixed_precision": "bf16", "devices": (1, 3)}, {"gpus": 4}, "2 GPU processes, nccl, bf16 (Made-up GPU)", 2),
        ({"devices": "cpu", "num_processes": 8}, {"gpus": 4}, "8 CPU processes, gloo", 8),
        ({"start_method": "inline"}, {"gpus": 4}, "1 GPU process, in this process (Made-up GPU)", 1),
    ],
)
def test_what_is_chosen(config: dict, machine: dict, text: str, size: int):
    plan = make_plan(RunConfig(**config), Inventory.fake(**machine))
    assert (str(plan), plan.world_size) == (text, size)


def test_ranks_see_the_devices_that_were_named_and_no_other():
    assert make_plan(RunConfig(devices=(3, 1)), Inventory.fake(gpus=4)).environ["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert make_plan(RunConfig(devices="cpu"), Inventory.fake(gpus=4)).environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("asked", "requested", "cores", "ranks", "threads"),
    [(None, None, 8, 2, 4), (None, None, 2, 4, 1), (None, 6, 8, 2, 6), (3, 6, 8, 2, 3)],
)
def test_threads_per_rank(asked: int | None, requested: int | None, cores: int, ranks: int, threads: int):
    config = RunConfig(num_processes=ranks, threads_per_rank=asked)
    plan = make_plan(config, Inventory.fake(cpu_cores=cores), requested)
    assert plan.threads_per_rank == threads
    assert plan.environ["OMP_NUM_THREADS"] == str(threads)


def test_loopback_is_a_default_that_the_user_may_change():
    plan = make_plan(RunConfig(num_processes=2), Inventory.fake())
    assert plan.defaults["GLOO_SOCKET_IFNAME"] == plan.defaults["NCCL_SOCKET_IFNAME"]
    assert "GLOO_SOCKET_IFNAME" not in plan.environ


def test_other_systems_are_told_what_works_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(ConfigError, match="needs Linux"):
        make_plan(RunConfig(num_processes=1), Inventory.fake())
    assert make_plan(RunConfig(start_method="inline"), Inventory.fake()).world_size == 1


def machine(**kinds: int) -> Inventory:
    devices = (
        Device(kind=kind, index=i, name=f"{kind} {i}", selector=str(i)) for kind, n in kinds.items() for i in range(n)
    )
    return Inventory(cpu_cores=4, devices=tuple(devices))


@pytest.mark.parametrize(
    ("config", "there", "words"),
    [
        ({"devices": "cuda"}, {}, "devices='cuda', but this machine has the CPU only"),
        ({"devices": "mps"}, {"cuda": 2}, "devices='mps', but this machine has cuda"),
        ({"devices": "cuda"}, {"mps": 1}, "devices='cuda', but this machine has mps"),
        ({"devices": (0, 4, 5)}, {"cuda": 2}, r"names \[4, 5\], but this process sees GPUs \[0, 1\]"),
        ({"devices": (0,)}, {}, "but this process sees no GPU"),
        ({"devices": (0,)}, {"mps": 1}, "but this process sees no GPU"),
        ({"num_processes": 3}, {"cuda": 2}, "num_processes=3, but there are 2 devices to run on"),
        ({"num_processes": 2}, {"cuda": 1}, "num_processes=2, but there is 1 device to run on"),
        ({"num_processes": 3, "devices": (1, 0)}, {"cuda": 4}, "num_processes=3, but there are 2 devices"),
        ({"num_processes": 2}, {"mps": 2}, "MPS is one device"),
        ({"start_method": "inline", "num_processes": 2}, {}, "which is one rank, not 2"),
        ({"start_method": "inline", "devices": (1,)}, {"cuda": 2}, r"which devices=\(1,\) cannot change"),
        ({"start_method": "inline", "preload": ("a",)}, {}, "preload has no meaning"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_advice(config: dict, there: dict[str, int], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        make_plan(RunConfig(**config), machine(**there))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "there", "kind", "chosen"),
    [
        ({"devices": (1, 0), "num_processes": 1}, {"cuda": 2}, "cuda", [1]),
        ({"devices": "cuda"}, {"cuda": 3}, "cuda", [0, 1, 2]),
        ({"devices": "mps"}, {"mps": 1}, "mps", [0]),
        ({}, {"mps": 1}, "mps", [0]),
        ({"start_method": "inline", "devices": (0,)}, {"cuda": 2}, "cuda", [0]),
        ({"start_method": "inline", "devices": "cpu"}, {"cuda": 2}, "cpu", []),
    ],
    ids=str,
)
def test_which_devices(config: dict, there: dict[str, int], kind: str, chosen: list[int]):
    plan = make_plan(RunConfig(**config), machine(**there))
    assert (plan.device_kind, [device.index for device in plan.devices]) == (kind, chosen)
    assert plan.world_size == max(1, len(chosen))
    assert plan.start_method == config.get("start_method", "forkserver")
