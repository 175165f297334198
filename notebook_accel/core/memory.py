"""Giving memory back."""

from __future__ import annotations

import gc
from typing import Any

import torch


def clear_device_cache(garbage_collection: bool = False) -> None:
    """Give memory that torch keeps for later back to the device.

    Args:
        garbage_collection: collect objects that only refer to each other first.
    """
    if garbage_collection:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
    elif hasattr(torch, "xpu") and torch.xpu.is_available():
        torch.xpu.empty_cache()


def release_memory(*objects: Any) -> list[None]:
    """Let go of objects, and give their memory back to the device.

    Args:
        objects: names to let go of, by assigning what is returned.

    Returns:
        None for each object.

    Example:
        >>> a = torch.ones(2)
        >>> (a,) = release_memory(a)
        >>> a is None
        True
    """
    count = len(objects)
    del objects
    clear_device_cache(garbage_collection=True)
    return [None] * count


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on a device or on the host.

    Example:
        >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), is_out_of_memory(ValueError("no"))
        (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_NOT_SUPPORTED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
