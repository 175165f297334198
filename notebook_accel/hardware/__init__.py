"""What this machine has to compute on, found without starting any runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_accel.lazy import resolver

if TYPE_CHECKING:
    from notebook_accel.hardware.inventory import Device, Inventory, Load, Unavailable

__all__ = ["Device", "Inventory", "Load", "Unavailable"]

__getattr__ = resolver(__name__, dict.fromkeys(__all__, "hardware.inventory"), globals())
