"""What drives the chips of a TPU: ``torch_xla``, or ``torch_tpu``, its successor.

Which of them is decided where the chips are found, by what is installed, and is the kind of the devices. Here is what
each lets a launch ask for; who starts the ranks is in ``start``, and how they communicate in ``backends.registry``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, cast

from notebook_accel.config import StartMethod
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.hardware.inventory import Device
from notebook_accel.world import DeviceKind

_NEWER = 'use a TPU v4 or later, or devices="cpu"'
# Chips of which one process gets two devices, and what to do instead.
_TWO_DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "TPU v2 or v3": _NEWER,
        "TPU v7": 'install torch_tpu in the place of torch_xla (experimental here), or use devices="cpu"',
    }
)


class TpuRuntime(Protocol):
    """What a launch can ask of the chips, and what its ranks find in their environment."""

    def world_size(self, asked: int | None, devices: Sequence[Device]) -> int:
        """Give the number of ranks.

        Args:
            asked: num_processes, None where left out.
            devices: the chips, at least one.

        Raises:
            NotAvailableError: it cannot use chips like these.
            ConfigError: it cannot use them with that many ranks.
        """

    def start_method(self, asked: StartMethod | None) -> StartMethod:
        """Give how the ranks come to be.

        Raises:
            NotAvailableError: that is not possible with it.
        """

    def environ(self, world_size: int, chips: int, *, rehearses: bool) -> dict[str, str]:
        """Give variables for the ranks.

        Args:
            world_size: number of ranks.
            chips: that there are.
            rehearses: on the CPU, in the place of chips.
        """


class TorchXla:
    """``torch_xla``: its xmp.spawn starts one process for each chip, or one process with one chip; no other number."""

    def world_size(self, asked: int | None, devices: Sequence[Device]) -> int:
        """Give the number of chips, or 1; see ``TpuRuntime``."""
        count, name = len(devices), devices[0].name
        if name in _TWO_DEVICES:
            what = f"{name}: torch_xla drives two devices of such a chip in one process, where ranks would share "
            raise NotAvailableError(f"{what}everything", _TWO_DEVICES[name])
        if asked not in {None, 1, count}:
            what = f"num_processes={asked}, but torch_xla starts one process for each chip, which is {count}"
            one = ", or 1 for one of the chips" if count > 1 else ""
            raise ConfigError(what, f"leave num_processes out, or say {count}{one}")
        return asked or count

    def start_method(self, asked: StartMethod | None) -> StartMethod:
        """Give how xmp.spawn starts its processes; see ``TpuRuntime``."""
        return _one_of({None: "fork", "forkserver": "fork", "fork": "fork", "spawn": "spawn"}, asked)

    def environ(self, world_size: int, chips: int, *, rehearses: bool) -> dict[str, str]:
        """Give what it computes on, and that it is one process where there are more chips; see ``TpuRuntime``."""
        if rehearses:
            return {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}
        return {"PJRT_DEVICE": "TPU", **({"TPU_PROCESS_BOUNDS": "1,1,1"} if world_size < chips else {})}


class TorchTpu:
    """``torch_tpu``, EXPERIMENTAL: written to its Python sources, never run on a TPU.

    Its ranks are processes like those on GPUs, one for each chip, fresh interpreters: a fork of a process whose TPU is
    in use cannot use one.

    Source: torch_tpu 0.2.0, ``_internal/utils/hardware.py`` (the numbers of processes that it has a topology for)
    """

    COUNTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
        {
            "TPU v4": (1, 2, 4, 8),
            "TPU v5p": (1, 2, 4, 8),
            "TPU v5e": (1, 4, 8),
            "TPU v6e": (1, 4, 8),
            "TPU v7": (2, 4, 8),
        }
    )

    def world_size(self, asked: int | None, devices: Sequence[Device]) -> int:
        """Give the largest number that it has a topology for, or the one that was asked for; see ``TpuRuntime``."""
        count, name = len(devices), devices[0].name
        possible = [number for number in self.COUNTS.get(name, ()) if number <= count]
        if not possible:
            raise NotAvailableError(f"torch_tpu cannot use {count} x {name}", _NEWER)
        if asked is None:
            return max(possible)
        if asked not in possible:
            numbers = " or ".join(map(str, possible))
            what = f"num_processes={asked}, but torch_tpu uses {count} x {name} with {numbers} processes"
            raise ConfigError(what, f"leave num_processes out, or say {numbers}")
        return asked

    def start_method(self, asked: StartMethod | None) -> StartMethod:
        """Give "spawn"; see ``TpuRuntime``."""
        if asked == "fork":
            what = 'start_method="fork": torch_tpu cannot use a TPU in a fork of a process that has used one'
            raise NotAvailableError(what, "leave start_method out: the ranks are fresh interpreters")
        return _one_of({None: "spawn", "forkserver": "spawn", "spawn": "spawn"}, asked)

    def environ(self, world_size: int, chips: int, *, rehearses: bool) -> dict[str, str]:
        """Let ``import torch`` load it, whatever the kernel has set; see ``TpuRuntime``."""
        del world_size, chips, rehearses  # it sees the first itself, and has nothing to rehearse with
        return {"TORCH_DEVICE_BACKEND_AUTOLOAD": "1"}


RUNTIMES: Mapping[DeviceKind, TpuRuntime] = MappingProxyType({"xla": TorchXla(), "tpu": TorchTpu()})


def _one_of(methods: Mapping[str | None, str], asked: StartMethod | None) -> StartMethod:
    if asked not in methods:
        what = f'start_method="{asked}" would start the TPU in this process, which could not launch again'
        raise NotAvailableError(what, 'leave start_method out, or rehearse with devices="cpu"')
    return cast("StartMethod", methods[asked])
