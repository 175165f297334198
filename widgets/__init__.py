"""What a person sees in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notebook_accel.lazy import resolver

if TYPE_CHECKING:
    from .picker import HardwarePicker

__all__ = ["HardwarePicker"]

__getattr__ = resolver(__name__, {"HardwarePicker": "widgets.picker"}, globals())
