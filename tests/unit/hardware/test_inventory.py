from __future__ import annotations

import dataclasses

import pytest

from notebook_accel.hardware.inventory import Device, Inventory


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_a_made_up_machine(gpus: int):
    machine = Inventory.fake(gpus=gpus, cpu_cores=3)
    assert machine.cpu_cores == 3
    assert [device.index for device in machine.devices] == list(range(gpus))
    assert [device.selector for device in machine.devices] == [str(number) for number in range(gpus)]
    assert all(device.kind == "cuda" and device.memory_total_bytes > 0 for device in machine.devices)


def test_machines_are_values():
    assert Inventory.fake(gpus=2) == Inventory.fake(gpus=2) != Inventory.fake(gpus=1)
    hash(Inventory.fake(gpus=2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Inventory.fake().cpu_cores = 9
    assert Device(kind="mps", index=0, name="x", selector="0").memory_total_bytes == 0


def test_made_up_models_are_what_they_are_called():
    machine = Inventory.fake(gpus=["T4", "P100"], full=[1])
    assert [(device.name, device.compute_capability) for device in machine.devices] == [
        ("Tesla T4", (7, 5)),
        ("Tesla P100-PCIE-16GB", (6, 0)),
    ]
    free, full = machine.loads
    assert (free.processes, full.busy_percent) == ((), 97)
    assert full.memory_free_bytes < 2**30 < free.memory_free_bytes
    with pytest.raises(KeyError):
        Inventory.fake(gpus=["T5"])


def test_made_up_chips():
    machine = Inventory.fake(tpus=8)
    assert [device.kind for device in machine.devices] == ["xla"] * 8
    assert len(machine.loads) == 8
