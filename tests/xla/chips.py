"""Machines with made-up TPU chips, and the fake of torch_xla that stands in for what would drive them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Device, Inventory
from notebook_accel.launch.plan import LaunchPlan, make_plan
from notebook_accel.world import DeviceKind

FAKE_FOLDER = str(Path(__file__).parent / "fake_torch_xla")


def machine(chips: int, name: str = "TPU v5e", kind: DeviceKind = "xla") -> Inventory:
    found = (Device(kind=kind, index=i, name=name, selector=f"tpu{i}") for i in range(chips))
    return Inventory(cpu_cores=4, devices=tuple(found))


def plan_on_chips(config: RunConfig, chips: int, **variables: str) -> LaunchPlan:
    """A plan whose ranks the fake starts."""
    plan = make_plan(config, machine(chips))
    return replace(plan, environ={**plan.environ, "FAKE_XLA_PROCESSES": str(chips), **variables})


def pci_tree(root: Path, *identifiers: str, vendor: str = "0x1ae0") -> Path:
    """Make a folder like /sys with PCI devices of these identifiers."""
    for number, identifier in enumerate(identifiers):
        folder = root / "bus" / "pci" / "devices" / f"0000:00:{number:02x}.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "device").write_text(f"{identifier}\n")
    return root
