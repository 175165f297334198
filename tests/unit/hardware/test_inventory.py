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
