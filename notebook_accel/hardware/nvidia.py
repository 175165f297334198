"""NVIDIA GPUs, asked through NVML or nvidia-smi: neither starts the CUDA runtime in this process."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from notebook_accel.hardware import nvidia_smi, nvml
from notebook_accel.hardware.gpus import Gpu, Slice
from notebook_accel.hardware.inventory import Device, Load, Unavailable


@dataclass(frozen=True)
class Answer:
    """What the driver says.

    Attributes:
        gpus: of the machine.
        problem: why nobody can say, "" where somebody can, or nothing hints at an NVIDIA GPU.
    """

    gpus: tuple[Gpu, ...] = ()
    problem: str = ""


def devices(visible: str | None) -> tuple[tuple[Device, ...], tuple[Unavailable, ...]]:
    """Give the GPUs that CUDA would show to this process, and what is not usable.

    Args:
        visible: the value of CUDA_VISIBLE_DEVICES, None where unset.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars
    """
    answer = ask()
    found = _visible(answer.gpus, visible)
    rows = [Unavailable(name="NVIDIA GPUs", reason=answer.problem)] if answer.problem else []
    rows += [
        Unavailable(name=f"{gpu.name} (number {gpu.number})", reason=reason)
        for gpu in answer.gpus
        if (reason := _why_hidden(gpu, found, visible))
    ]
    return found, tuple(rows)


def _visible(gpus: tuple[Gpu, ...], visible: str | None) -> tuple[Device, ...]:
    if visible is None:
        chosen = _all_of(gpus)
    else:
        chosen = []
        for selector in (part.strip() for part in visible.split(",")):
            selected = _select(gpus, selector)
            if selected is None:
                break  # CUDA ignores everything from the first invalid entry on
            chosen.append((selector, *selected))
    if len({_uuid(gpu, part) for _, gpu, part in chosen}) != len(chosen):
        return ()  # CUDA shows none when one is named twice
    sliced = [choice for choice in chosen if choice[2] is not None]
    chosen = sliced[:1] or chosen  # CUDA shows a process one slice, and no other device beside it
    return tuple(_device(i, selector, gpu, part) for i, (selector, gpu, part) in enumerate(chosen))


def _all_of(gpus: tuple[Gpu, ...]) -> list[tuple[str, Gpu, Slice | None]]:
    """Choose what CUDA shows where nothing was chosen: whole GPUs, or the first slice where there are none."""
    # CUDA's own numbers begin with the fastest GPU, the driver's follow the bus: where they may differ, a UUID is safe.
    is_mixed = len({(gpu.name, gpu.is_sliced) for gpu in gpus}) > 1
    whole: list[tuple[str, Gpu, Slice | None]] = [
        (gpu.uuid if is_mixed else str(gpu.number), gpu, None) for gpu in gpus if not gpu.is_sliced
    ]
    parts: list[tuple[str, Gpu, Slice | None]] = [(part.uuid, gpu, part) for gpu in gpus for part in gpu.slices]
    return whole or parts[:1]


def _select(gpus: tuple[Gpu, ...], selector: str) -> tuple[Gpu, Slice | None] | None:
    if selector.isascii() and selector.isdecimal():
        gpu = next((gpu for gpu in gpus if gpu.number == int(selector)), None)
        if gpu is None or not gpu.is_sliced:
            return None if gpu is None else (gpu, None)
        return (gpu, gpu.slices[0]) if gpu.slices else None
    if selector.startswith("MIG-"):
        parts = [(gpu, part) for gpu in gpus for part in gpu.slices if part.uuid.startswith(selector)]
        if gpus and not any(gpu.slices for gpu in gpus):  # whoever was asked cannot list them
            return gpus[0], Slice(selector, "")
        return parts[0] if len(parts) == 1 else None
    matches = [gpu for gpu in gpus if selector and gpu.uuid.startswith(selector)]
    if len(matches) != 1 or (matches[0].is_sliced and not matches[0].slices):
        return None
    return matches[0], matches[0].slices[0] if matches[0].is_sliced else None


def _device(index: int, selector: str, gpu: Gpu, part: Slice | None) -> Device:
    name = gpu.name if part is None else f"{gpu.name} MIG {part.name}".rstrip()
    return Device(
        kind="cuda",
        index=index,
        name=name,
        selector=selector,
        memory_total_bytes=gpu.memory_total_bytes if part is None else part.memory_total_bytes,
        uuid=_uuid(gpu, part),
        compute_capability=gpu.compute_capability,
        compute_mode=gpu.compute_mode,
    )


def _uuid(gpu: Gpu, part: Slice | None) -> str:
    return gpu.uuid if part is None else part.uuid


def _why_hidden(gpu: Gpu, found: Sequence[Device], visible: str | None) -> str:
    """Say why a GPU of the machine is not among those that this process sees; nothing where it is."""
    uuids = {device.uuid for device in found}
    if uuids & {gpu.uuid, *(part.uuid for part in gpu.slices)}:
        return ""
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides it"
    if gpu.is_sliced and not gpu.slices:
        return "it is in MIG mode and has no slice"
    return "CUDA shows a process either whole GPUs or one MIG slice; CUDA_VISIBLE_DEVICES chooses"


@functools.lru_cache(maxsize=1)
def ask() -> Answer:
    """Ask which GPUs there are; they do not change while a process lives."""
    try:
        return Answer(nvml.list_gpus(importlib.import_module("pynvml")))
    except Exception as error:  # noqa: BLE001 - not installed, no driver, a driver too old: ask the other way
        through_library = error
    try:
        return Answer(nvidia_smi.list_gpus())
    except nvidia_smi.SmiError as error:
        if isinstance(through_library, ImportError) or _has_no_driver(through_library):
            through_program = str(error)
            return Answer(problem="" if through_program == nvidia_smi.NO_PROGRAM else through_program)
        return Answer(problem=f"NVML: {through_library}; {error}")


def _has_no_driver(error: Exception) -> bool:
    return type(error).__name__ in {"NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded"}


def read_loads(uuids: Sequence[str]) -> dict[str, Load]:
    """Look at GPUs now; never raises. What nobody can say is left out.

    Args:
        uuids: of those to look at.
    """
    with suppress(Exception):  # not installed, no driver, a driver too old: ask the other way
        return nvml.read_loads(importlib.import_module("pynvml"), uuids)
    with suppress(nvidia_smi.SmiError):
        return nvidia_smi.read_loads(uuids)
    return {}


def driver_version() -> str:
    """Give the version of NVIDIA's driver, "" where there is none; never raises."""
    with suppress(Exception):  # as above
        return nvml.driver_version(importlib.import_module("pynvml"))
    with suppress(nvidia_smi.SmiError):
        return nvidia_smi.driver_version()
    return ""
