"""Room for runs of one kind, on the devices that no other run holds."""

from __future__ import annotations

from dataclasses import replace

from notebook_accel.config import RunConfig
from notebook_accel.hardware.probe import probe
from notebook_accel.launch.plan import usable_devices
from notebook_accel.launch.start import held_devices, plan_of


class Slots:
    """How many runs of one kind can go on at a time, and on what.

    Args:
        config: what each run is asked to be.

    Raises:
        ConfigError: not even one run is possible.
        NotAvailableError: ranks cannot compute on what was asked for.
    """

    def __init__(self, config: RunConfig) -> None:
        plan = plan_of(config)
        self.start_method = plan.start_method
        self._ranks = plan.world_size
        self._noun = f"{plan.world_size} {'GPU' if plan.devices else 'CPU'}{'s' if plan.world_size > 1 else ''}"
        self._inventory = probe()
        self._devices, self._left_out = usable_devices(config, self._inventory)
        self._has_numbers = bool(self._devices) and self._devices[0].kind == "cuda"  # others are held all at once
        at_a_time = len(self._devices) // self._ranks if self._has_numbers else len(self._devices[:1])
        self._at_a_time = at_a_time or max(1, self._inventory.cpu_cores // self._ranks)
        threads = max(1, self._inventory.cpu_cores // (self._at_a_time * self._ranks))
        self._config = replace(config, threads_per_rank=config.threads_per_rank or threads)

    def next(self, running: int) -> RunConfig | None:
        """Give what to start now, None while there is no room.

        Args:
            running: how many of these runs go on.
        """
        if not self._devices:
            return self._config if running < self._at_a_time else None
        held = held_devices()
        free = [device for device in self._devices if device.selector not in held]
        if not self._has_numbers:
            return self._config if len(free) == len(self._devices) else None
        if len(free) < self._ranks:
            return None
        return replace(self._config, devices=tuple(device.index for device in free[: self._ranks]))

    def __str__(self) -> str:
        """Say it in a few words."""
        left_out = f"; left out: {self._left_out}" if self._left_out else ""
        return f"{self._at_a_time} at a time on {self._noun} each{left_out}"
