"""NVIDIA GPUs, asked through NVML or nvidia-smi: neither starts the CUDA runtime in this process."""

from __future__ import annotations

import functools
import importlib
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import Any

from notebook_accel.hardware.inventory import Device


@dataclass(frozen=True)
class Gpu:
    """A GPU of the machine, whether this process may see it or not."""

    number: int
    uuid: str
    name: str
    memory_total_bytes: int


def visible_devices(visible: str | None) -> tuple[Device, ...]:
    """Give the GPUs that CUDA would show to this process.

    Args:
        visible: the value of CUDA_VISIBLE_DEVICES, None where unset.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars
    """
    gpus = all_gpus()
    if visible is None:
        chosen = [(str(gpu.number), gpu) for gpu in gpus]
    else:
        chosen = []
        for selector in (part.strip() for part in visible.split(",")):
            gpu = _select(gpus, selector)
            if gpu is None:
                break  # CUDA ignores everything from the first invalid entry on
            chosen.append((selector, gpu))
    if len({gpu.uuid for _, gpu in chosen}) != len(chosen):
        return ()  # CUDA shows none when one is named twice
    return tuple(
        Device(kind="cuda", index=i, name=gpu.name, selector=selector, memory_total_bytes=gpu.memory_total_bytes)
        for i, (selector, gpu) in enumerate(chosen)
    )


def _select(gpus: tuple[Gpu, ...], selector: str) -> Gpu | None:
    if selector.isdecimal():
        return next((gpu for gpu in gpus if gpu.number == int(selector)), None)
    if selector.startswith("MIG-"):  # an instance of a GPU: which one does not matter for counting
        return replace(gpus[0], name=f"{gpus[0].name} (MIG)", uuid=selector) if gpus else None
    matches = [gpu for gpu in gpus if selector and gpu.uuid.startswith(selector)]
    return matches[0] if len(matches) == 1 else None


@functools.lru_cache(maxsize=1)
def all_gpus() -> tuple[Gpu, ...]:
    """List the machine's GPUs; they do not change while a process lives."""
    try:
        return _ask_nvml(importlib.import_module("pynvml"))
    except Exception:  # noqa: BLE001 - not installed, no driver, a driver too old: ask the other way
        return _ask_nvidia_smi()


def _ask_nvml(nvml: Any) -> tuple[Gpu, ...]:
    nvml.nvmlInit()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                i,
                _text(nvml.nvmlDeviceGetUUID(handle)),
                _text(nvml.nvmlDeviceGetName(handle)),
                int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for i, handle in enumerate(handles)
        )
    finally:
        nvml.nvmlShutdown()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _ask_nvidia_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(answer)


def parse_nvidia_smi(answer: str) -> tuple[Gpu, ...]:
    """Read the rows "index, uuid, name, MiB" of nvidia-smi."""
    gpus = []
    for row in answer.splitlines():
        cells = [cell.strip() for cell in row.split(",")]
        if len(cells) == 4 and cells[0].isdecimal():  # noqa: PLR2004 - the four columns asked for
            mebibytes = int(cells[3]) if cells[3].isdecimal() else 0
            gpus.append(Gpu(int(cells[0]), cells[1], cells[2], mebibytes * 2**20))
    return tuple(gpus)
