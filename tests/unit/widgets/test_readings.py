from __future__ import annotations

from notebook_accel.hardware import Device, Inventory
from notebook_accel.widgets.events import Reading
from notebook_accel.widgets.readings import of_devices


def test_of_a_device_that_cannot_be_asked_its_memory_is_known():
    assert of_devices(Inventory.fake(gpus=2).devices) == [Reading(memory_total_bytes=16 << 30)] * 2
    assert of_devices([Device(kind="mps", index=0, name="Apple GPU", selector="0")]) == [Reading()]
