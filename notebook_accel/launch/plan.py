"""Decide what a launch will do: a pure function from what was asked and what is there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from notebook_accel.config import RunConfig, StartMethod
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.hardware.inventory import Device, Inventory, Load
from notebook_accel.hardware.limits import why_not_in, why_unusable
from notebook_accel.launch.tpu_runtime import RUNTIMES
from notebook_accel.world import DeviceKind

_COMMUNICATION = {"cpu": "gloo", "cuda": "nccl", "mps": "no communication", "xla": "XLA", "tpu": "tpu_dist"}
_NOUNS = {"cuda": "GPU", "xla": "TPU", "tpu": "TPU"}
_CHOICES = {"xla": "tpu"}  # of the kinds that are asked for by another name
_HOW = {"forkserver": "from a warm helper", "fork": "forked from this process", "spawn": "in fresh interpreters"}
_LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """Everything decided before a process starts.

    Attributes:
        config: what was asked.
        world_size: number of ranks.
        device_kind: what every rank computes on.
        devices: one accelerator a rank, empty on the CPU.
        start_method: how the ranks come to be.
        threads_per_rank: intra-op threads of each rank.
        environ: variables that the ranks get beside the kernel's own.
        defaults: variables that the ranks get where the kernel has not set them.
        left_out: which devices no rank can compute on, and why, in words; "" for none.

    Example:
        >>> str(make_plan(RunConfig(num_processes=2), Inventory.fake()))
        '2 CPU processes, gloo'
    """

    config: RunConfig
    world_size: int
    device_kind: DeviceKind
    devices: tuple[Device, ...]
    start_method: StartMethod
    threads_per_rank: int
    environ: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    left_out: str = ""

    def __str__(self) -> str:
        """Say in one line what will run."""
        noun = _NOUNS.get(self.device_kind, self.device_kind.upper())
        parts = [f"{self.world_size} {noun} process{'es' if self.world_size > 1 else ''}"]
        if self.world_size > 1:
            parts.append(_COMMUNICATION[self.device_kind])
        if self.config.mixed_precision != "no":
            parts.append(self.config.mixed_precision)
        if self.start_method == "inline":
            parts.append("in this process")
        elif self.config.start_method is not None and self.start_method not in {
            default_start_method(),
            RUNTIMES[self.device_kind].start_method(None) if self.device_kind in RUNTIMES else None,
        }:
            parts.append(_HOW[self.start_method])
        names = sorted({device.name for device in self.devices})
        said = ", ".join(parts) + (f" ({'; '.join(names)})" if names else "")
        return said + (f"; left out: {self.left_out}" if self.left_out else "")


def default_start_method() -> StartMethod:
    """Give the start method that suits the system: macOS frameworks do not survive a fork."""
    return "forkserver" if sys.platform == "linux" else "spawn"


def make_plan(
    config: RunConfig,
    inventory: Inventory,
    requested_threads: int | None = None,
    holders: Mapping[str, str] | None = None,
) -> LaunchPlan:
    """Match what was asked with what is there.

    Args:
        config: what was asked.
        inventory: what is there.
        requested_threads: the user's OMP_NUM_THREADS, None where unset.
        holders: which run holds a device, in words, by the device's selector.

    Raises:
        ConfigError: more ranks than devices, a GPU number that does not exist, no such device, or another run has it.
        NotAvailableError: what was asked cannot work on this system, or torch cannot compute on a device.
    """
    usable, left_out = usable_devices(config, inventory)
    devices = _without_held(config, usable, inventory, holders or {})
    if devices and devices[0].kind in RUNTIMES:
        return _tpu_plan(config, devices, inventory, requested_threads)
    start_method = config.start_method or default_start_method()
    world_size = _world_size(config, devices, inventory.cpu_cores, start_method, left_out)
    devices = devices[:world_size]
    kind = devices[0].kind if devices else "cpu"
    _check_system(config, kind, world_size, start_method)
    threads = config.threads_per_rank or requested_threads or max(1, inventory.cpu_cores // world_size)
    threads = 1 if start_method == "fork" else threads  # a fork would wait for ever for the threads of torch's pool
    return LaunchPlan(
        config=config,
        world_size=world_size,
        device_kind=kind,
        devices=devices,
        start_method=start_method,
        threads_per_rank=threads,
        environ={"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ",".join(d.selector for d in devices)},
        # A run on one machine listens on loopback only; gloo and NCCL would take the host name's address.
        defaults={"GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK, **_off_the_chips(inventory)},
        left_out=left_out,
    )


def _tpu_plan(
    config: RunConfig, devices: tuple[Device, ...], inventory: Inventory, requested_threads: int | None
) -> LaunchPlan:
    """Make the plan of a run on chips, as what drives them allows it."""
    runtime = RUNTIMES[devices[0].kind]
    world_size = runtime.world_size(config.num_processes, devices)
    start_method = runtime.start_method(config.start_method)
    if config.preload:
        raise ConfigError("preload has no meaning on a TPU, whose ranks no warm helper starts", "leave preload out")
    why = why_not_in(config.mixed_precision, devices[0])
    if why:
        raise NotAvailableError(f'mixed_precision="{config.mixed_precision}": {why}', 'use "bf16" or "no"')
    threads = config.threads_per_rank or requested_threads or max(1, inventory.cpu_cores // world_size)
    return LaunchPlan(
        config=config,
        world_size=world_size,
        device_kind=devices[0].kind,
        devices=devices[:world_size],
        start_method=start_method,
        threads_per_rank=threads,
        environ={
            "OMP_NUM_THREADS": str(threads),
            **runtime.environ(world_size, len(devices), rehearses=devices[0] in inventory.rehearsal),
        },
        defaults={"GLOO_SOCKET_IFNAME": _LOOPBACK},
    )


def _off_the_chips(inventory: Inventory) -> dict[str, str]:
    """Keep ranks on the CPU from loading torch_tpu with torch, which would start the TPU when they are seeded."""
    return {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"} if any(d.kind == "tpu" for d in inventory.devices) else {}


def choose_devices(config: RunConfig, inventory: Inventory) -> tuple[Device, ...]:
    """Give the devices that were asked for, whoever holds them; none for the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    asked = config.devices
    if asked == "cpu":
        return ()
    if asked == "auto":
        return inventory.devices
    if isinstance(asked, str):
        places = (inventory.devices, inventory.rehearsal)
        matching = (tuple(d for d in devices if _CHOICES.get(d.kind, d.kind) == asked) for devices in places)
        found = next(filter(None, matching), ())
        if not found:
            have = ", ".join(sorted({_CHOICES.get(d.kind, d.kind) for d in inventory.devices})) or "the CPU only"
            raise ConfigError(f"devices={asked!r}, but this machine has {have}", 'use devices="auto" or devices="cpu"')
        return found
    by_number = {device.index: device for device in inventory.devices if device.kind == "cuda"}
    missing = [number for number in asked if number not in by_number]
    if missing:
        have = f"GPUs {sorted(by_number)}" if by_number else "no GPU"
        raise ConfigError(
            f"devices={list(asked)} names {missing}, but this process sees {have}",
            "the numbers are those of this process, after CUDA_VISIBLE_DEVICES",
        )
    return tuple(by_number[number] for number in asked)


def usable_devices(config: RunConfig, inventory: Inventory) -> tuple[tuple[Device, ...], str]:
    """Give the devices that were asked for and that ranks can compute on, and which were left out and why, in words.

    Raises:
        ConfigError: there is no such device.
        NotAvailableError: ranks cannot compute on one that was asked for by number, or on any.
    """
    devices = choose_devices(config, inventory)
    problems = {device: why_unusable(device, inventory.torch, Load()) for device in devices}
    usable = tuple(device for device in devices if not problems[device])
    why = "; ".join(f"GPU {device.index} ({device.name}): {why}" for device, why in problems.items() if why)
    if why and (isinstance(config.devices, tuple) or not usable):
        others = [device.index for device in inventory.devices if not why_unusable(device, inventory.torch, Load())]
        hint = f"use devices={others}" if others else 'rehearse with devices="cpu"'
        raise NotAvailableError(f"no rank can compute on {why}", hint)
    return usable, why


def _without_held(
    config: RunConfig, devices: tuple[Device, ...], inventory: Inventory, holders: Mapping[str, str]
) -> tuple[Device, ...]:
    """Leave out what other runs hold, or refuse where it was asked for by number or nothing is left."""
    held = {device: holders[device.selector] for device in devices if device.selector in holders}
    free = tuple(device for device in devices if device not in held)
    everything = isinstance(config.devices, tuple) or any(device.kind in RUNTIMES for device in devices)
    wanted = len(devices) if everything else (config.num_processes or 1)
    if not held or wanted <= len(free):
        return free
    who = "; ".join(
        f"{_NOUNS.get(device.kind, device.kind)} {device.index} by {holder}" for device, holder in held.items()
    )
    others = [device.index for device in inventory.devices if device.selector not in holders]
    rest = f"devices={others} is free" if others else "no other is free"
    raise ConfigError(f"devices are held by runs that have not ended: {who}", f"wait for them or .stop() them; {rest}")


def _world_size(
    config: RunConfig, devices: tuple[Device, ...], cpu_cores: int, start_method: StartMethod, left_out: str
) -> int:
    asked = config.num_processes
    if devices:
        if asked is not None and asked > len(devices):
            raise ConfigError(
                f"num_processes={asked}, but there {'is' if len(devices) == 1 else 'are'} "
                f"{len(devices)} device{'s' if len(devices) > 1 else ''} to run on"
                f"{f', without {left_out}' if left_out else ''}",
                f'use num_processes={len(devices)}, or rehearse on the CPU with devices="cpu"',
            )
        return asked or (1 if start_method == "inline" else len(devices))
    return asked or (1 if start_method == "inline" else min(2, cpu_cores))


def _check_system(config: RunConfig, kind: DeviceKind, world_size: int, start_method: StartMethod) -> None:
    if start_method == "inline":
        if world_size > 1:
            raise ConfigError(
                f'start_method="inline" runs in this process, which is one rank, not {world_size}',
                "leave start_method out, or set num_processes=1",
            )
        if isinstance(config.devices, tuple) and config.devices != (0,):
            raise ConfigError(
                f'start_method="inline" runs where this process runs, which devices={config.devices} cannot change',
                "leave devices out, or leave start_method out",
            )
        if config.timeout_seconds is not None:
            what = 'timeout_seconds cannot end a function with start_method="inline", which runs in this process'
            raise ConfigError(what, "leave timeout_seconds out, or leave start_method out")
        if config.hang_action == "stop":
            what = 'hang_action="stop" cannot end a function with start_method="inline", which runs in this process'
            raise ConfigError(what, "leave hang_action out, or leave start_method out")
    if start_method == "fork" and (config.threads_per_rank or 1) > 1:
        what = (
            f'threads_per_rank={config.threads_per_rank} with start_method="fork": the threads that torch has in this '
        )
        raise ConfigError(f"{what}process are missing in its forks", "leave one of the two out")
    if config.preload and start_method != "forkserver":
        raise ConfigError(f'preload has no meaning with start_method="{start_method}"', "leave preload out")
    if sys.platform != "linux" and start_method in {"forkserver", "fork"}:
        raise NotAvailableError(
            f"start_method={start_method!r} needs Linux, this is {sys.platform}, where a fork cannot use the GPU or "
            "the system's frameworks",
            'leave start_method out ("spawn" is taken), or use "inline" with num_processes=1',
        )
    if kind == "mps" and world_size > 1:
        raise ConfigError("MPS is one device", "use num_processes=1")
