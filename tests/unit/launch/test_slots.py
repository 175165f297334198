from __future__ import annotations

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError
from notebook_accel.hardware.inventory import Device, Inventory
from notebook_accel.launch import slots, start
from notebook_accel.launch.slots import Slots
from tests.xla.chips import machine


@pytest.fixture
def slots_on(monkeypatch: pytest.MonkeyPatch):
    def slots_on(machine: Inventory, held: set[str] = frozenset(), **config: object) -> Slots:
        monkeypatch.setattr(start, "probe", lambda: machine)
        monkeypatch.setattr(slots, "probe", lambda: machine)
        monkeypatch.setattr(slots, "held_devices", lambda: frozenset(held))
        monkeypatch.setattr(start._ledger, "holders", lambda: dict.fromkeys(held, "another run"))
        return Slots(RunConfig(**config))

    return slots_on


@pytest.mark.parametrize(
    ("cores", "ranks", "at_a_time", "threads"), [(8, 1, 8, 1), (8, 2, 4, 1), (8, 3, 2, 1), (2, 4, 1, 1), (1, 1, 1, 1)]
)
def test_cpu_runs_share_the_cores(slots_on, cores: int, ranks: int, at_a_time: int, threads: int):
    room = slots_on(Inventory.fake(cpu_cores=cores), num_processes=ranks)
    assert [room.next(running) is not None for running in (0, at_a_time - 1, at_a_time)] == [True, True, False]
    assert room.next(0).threads_per_rank == threads


def test_threads_that_were_asked_for_stay(slots_on):
    assert slots_on(Inventory.fake(cpu_cores=8), num_processes=1, threads_per_rank=5).next(0).threads_per_rank == 5


def test_gpu_runs_divide_the_cores_among_those_that_run(slots_on):
    room = slots_on(Inventory.fake(cpu_cores=16, gpus=4), num_processes=2)
    assert room.next(0).threads_per_rank == 4


def test_no_run_is_put_on_a_gpu_that_torch_has_no_kernels_for(slots_on):
    machine = Inventory.fake(gpus=["P100", "T4", "T4"])
    assert slots_on(machine, num_processes=1).next(0).devices == (1,)
    assert slots_on(machine, {"1"}, num_processes=1).next(0).devices == (2,)
    said = str(slots_on(machine, num_processes=1))
    assert said.startswith("2 at a time on 1 GPU each; left out: GPU 0 (Tesla P100")


@pytest.mark.parametrize(
    ("held", "ranks", "chosen"),
    [
        (set(), 1, (0,)),
        ({"0", "2"}, 1, (1,)),
        ({"0", "2"}, 2, (1, 3)),
        ({"0"}, 2, (1, 2)),
        ({"0", "1", "2"}, 1, (3,)),
    ],
)
def test_a_run_gets_gpus_that_nobody_holds(slots_on, held: set[str], ranks: int, chosen: tuple[int, ...]):
    assert slots_on(Inventory.fake(gpus=4), held, num_processes=ranks).next(99).devices == chosen


def test_the_gpus_that_were_named_and_no_others(slots_on):
    assert slots_on(Inventory.fake(gpus=4), num_processes=1, devices=(3, 1)).next(0).devices == (3,)
    with pytest.raises(ConfigError, match="devices are held"):
        slots_on(Inventory.fake(gpus=4), {"3"}, num_processes=1, devices=(3,))


def test_there_is_no_room_while_too_few_are_free(slots_on, monkeypatch: pytest.MonkeyPatch):
    room = slots_on(Inventory.fake(gpus=3), num_processes=2)
    monkeypatch.setattr(slots, "held_devices", lambda: frozenset({"0", "1"}))
    assert room.next(1) is None
    monkeypatch.setattr(slots, "held_devices", lambda: frozenset({"1"}))
    assert room.next(0).devices == (0, 2)


def test_a_tpu_has_room_for_one_run_also_where_chips_are_left(slots_on, monkeypatch: pytest.MonkeyPatch):
    room = slots_on(machine(8, kind="tpu"), num_processes=4)
    assert str(room).startswith("1 at a time")
    assert room.next(0).num_processes == 4
    monkeypatch.setattr(slots, "held_devices", lambda: frozenset({"tpu0", "tpu1", "tpu2", "tpu3"}))
    assert room.next(1) is None


def test_the_one_mps_device_is_not_named_by_number(slots_on):
    machine = Inventory(cpu_cores=8, devices=(Device(kind="mps", index=0, name="Apple GPU", selector="0"),))
    room = slots_on(machine, num_processes=1)
    assert room.next(0).devices == "auto"


def test_more_ranks_than_devices_are_refused_at_once(slots_on):
    with pytest.raises(ConfigError, match="num_processes=3, but there are 2 devices"):
        slots_on(Inventory.fake(gpus=2), num_processes=3)
