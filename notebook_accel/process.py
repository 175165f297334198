"""What is already going on inside this process that a fork of it could not take over."""

from __future__ import annotations

import ctypes
import sys
import warnings
from pathlib import Path

_CUDA_NOT_INITIALISED = 3  # CUDA_ERROR_NOT_INITIALIZED of the driver API


def native_thread_count() -> int:
    """Count the threads of this process, those of libraries included; 1 where the system does not list them."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 1


def live_accelerator() -> str | None:
    """Name the accelerator runtime that is initialised in this process, None if there is none; starts nothing."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA (through torch)"
    if _cuda_driver_is_live():
        return "the CUDA driver"
    return live_tpu_runtime()


def live_tpu_runtime() -> str | None:
    """Name what drives TPU chips and is initialised in this process, None if nothing is; starts nothing."""
    tpu = getattr(sys.modules.get("torch"), "tpu", None)
    if tpu is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the question is experimental
            if tpu.is_initialized():
                return "the TPU (through torch_tpu)"
    extension = getattr(sys.modules.get("torch_xla"), "_XLAC", None)
    if extension is not None and extension._xla_runtime_is_initialized():  # noqa: SLF001 - the question without an answer in public
        return "the XLA runtime"
    return None


def _cuda_driver_is_live() -> bool:
    """Ask the driver, if it is loaded, whether anybody has initialised it: a mere device count is enough to do so."""
    maps = Path("/proc/self/maps")
    if not maps.is_file() or "libcuda.so" not in maps.read_text():
        return False
    count = ctypes.c_int()
    answer: int = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
    return answer != _CUDA_NOT_INITIALISED
