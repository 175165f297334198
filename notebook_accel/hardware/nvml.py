"""NVIDIA's management library: it answers about GPUs without starting the CUDA runtime.

Source: https://docs.nvidia.com/deploy/nvml-api
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from notebook_accel.hardware.gpus import Gpu, Slice
from notebook_accel.hardware.inventory import ComputeMode, DeviceProcess, Load

T = TypeVar("T")

_MODES: dict[int, ComputeMode] = {1: "exclusive", 2: "prohibited", 3: "exclusive"}


def list_gpus(nvml: Any) -> tuple[Gpu, ...]:
    """List the machine's GPUs.

    Args:
        nvml: the module ``pynvml``.

    Raises:
        Exception: whatever the module raises: no driver, or one that does not fit it.
    """
    with _open(nvml):
        return tuple(
            _gpu(nvml, number, nvml.nvmlDeviceGetHandleByIndex(number)) for number in range(nvml.nvmlDeviceGetCount())
        )


def read_loads(nvml: Any, uuids: Sequence[str]) -> dict[str, Load]:
    """Look at GPUs and slices now.

    Args:
        nvml: the module ``pynvml``.
        uuids: of those to look at; what is not there is left out of the answer.

    Raises:
        Exception: whatever the module raises.
    """
    with _open(nvml):
        found = {}
        for number in range(nvml.nvmlDeviceGetCount()):
            gpu = nvml.nvmlDeviceGetHandleByIndex(number)
            for handle in (gpu, *_slice_handles(nvml, gpu)):
                uuid = _text(nvml.nvmlDeviceGetUUID(handle))
                if uuid in uuids:
                    found[uuid] = _load(nvml, handle)
        return found


def driver_version(nvml: Any) -> str:
    """Give the version of the driver.

    Args:
        nvml: the module ``pynvml``.

    Raises:
        Exception: whatever the module raises.
    """
    with _open(nvml):
        return _text(nvml.nvmlSystemGetDriverVersion())


@contextmanager
def _open(nvml: Any) -> Iterator[None]:
    nvml.nvmlInit()
    try:
        yield
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, number: int, handle: Any) -> Gpu:
    capability = _or_none(lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    slices = tuple(_slice(nvml, each) for each in _slice_handles(nvml, handle))
    return Gpu(
        number,
        _text(nvml.nvmlDeviceGetUUID(handle)),
        _text(nvml.nvmlDeviceGetName(handle)),
        _or_none(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)) or 0,
        None if capability is None else (int(capability[0]), int(capability[1])),
        _MODES.get(_or_none(lambda: int(nvml.nvmlDeviceGetComputeMode(handle))) or 0, "shared"),
        _is_sliced(nvml, handle),
        slices,
    )


def _slice(nvml: Any, handle: Any) -> Slice:
    name = _or_none(lambda: _text(nvml.nvmlDeviceGetName(handle))) or ""
    total = _or_none(lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).total)) or 0
    return Slice(_text(nvml.nvmlDeviceGetUUID(handle)), name.rpartition("MIG ")[2], total)


def _is_sliced(nvml: Any, handle: Any) -> bool:
    mode = _or_none(lambda: nvml.nvmlDeviceGetMigMode(handle))
    return bool(mode and mode[0])


def _slice_handles(nvml: Any, handle: Any) -> Iterator[Any]:
    if not _is_sliced(nvml, handle):
        return
    for place in range(_or_none(lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))) or 0):
        with suppress(Exception):  # nothing is in this place
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)


def _load(nvml: Any, handle: Any) -> Load:
    memory = _or_none(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    processes = _or_none(lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle)) or []
    return Load(
        busy_percent=_or_none(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        memory_used_bytes=None if memory is None else int(memory.total) - int(memory.free),
        memory_total_bytes=None if memory is None else int(memory.total),
        processes=tuple(
            DeviceProcess(pid=int(process.pid), memory_bytes=getattr(process, "usedGpuMemory", None))
            for process in processes
        ),
    )


def _or_none(ask: Callable[[], T]) -> T | None:
    """Give an answer that not every driver and GPU has."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - an error of the module's own for each cause
        return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
