"""What a device cannot do, known before anything is launched on it."""

from __future__ import annotations

from notebook_accel.hardware.inventory import Device, Load
from notebook_accel.hardware.torch_build import TorchBuild

_NATIVE_BF16 = (8, 0)
_NOT_ON = {"xla": ("fp16",), "tpu": ("fp16",)}  # precisions that a kind of device cannot have
_NEEDED_BYTES = 1 << 30  # a CUDA context and NCCL's buffers take about half of it
_LEAST_FREE_PART = 0.1


def why_unusable(device: Device, torch: TorchBuild, load: Load) -> str:
    """Say why no rank can compute on a device; nothing where one can, as far as that is known.

    Args:
        device: the device.
        torch: the PyTorch that ranks would use.
        load: what the device does.

    Example:
        >>> p100 = Device(kind="cuda", index=0, name="P100", selector="0", compute_capability=(6, 0))
        >>> why_unusable(p100, TorchBuild(version="2.10.0+cu128", cuda="12.8"), Load())
        'torch 2.10.0+cu128 has no kernels for its compute capability 6.0, only from 7.0 on'
    """
    if device.kind != "cuda":
        return ""
    if torch.version and not torch.cuda:
        return f"torch {torch.version} is built for {torch.kind.removesuffix(' only')} only, not for CUDA"
    return _why_no_kernels(device, torch) or _why_no_access(device, load)


def _why_no_kernels(device: Device, torch: TorchBuild) -> str:
    kernels, capability = torch.kernels(), device.compute_capability
    if kernels is None or capability is None:
        return ""
    lowest, highest = kernels
    begins = f"torch {torch.version} has no kernels for its compute capability {_text(capability)}, only "
    if capability < lowest:
        return f"{begins}from {_text(lowest)} on"
    if capability > highest:
        return f"{begins}up to {highest[0]}.x: install a build for CUDA 12.8 or newer"
    return ""


def _why_no_access(device: Device, load: Load) -> str:
    if device.compute_mode == "prohibited":
        return "its compute mode is Prohibited: no process may compute on it"
    if device.compute_mode == "exclusive" and load.processes:
        return f"its compute mode lets one process use it, and {_who(load)} does"
    return ""


def warning(device: Device, load: Load) -> str:
    """Say why a rank on a device may well fail; nothing where no reason is known.

    Args:
        device: the device.
        load: what the device does.
    """
    free = load.memory_free_bytes
    total = load.memory_total_bytes or device.memory_total_bytes
    if free is not None and free < max(_NEEDED_BYTES, _LEAST_FREE_PART * total):
        return f"its memory is taken, by {_who(load)}: {free / 2**30:.1f} of {total / 2**30:.0f} GiB are free"
    return ""


def why_not_in(precision: str, device: Device) -> str:
    """Say why a device should not compute in a precision; nothing where it can.

    Args:
        precision: "no", "bf16" or "fp16".
        device: the device.

    Source: https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#compute-capabilities (bfloat16 from 8.0 on)
    """
    if precision in _NOT_ON.get(device.kind, ()):
        return f"{device.name} computes in bfloat16, which needs no gradient scaler"
    capability = device.compute_capability
    if device.kind == "cuda" and precision == "bf16" and capability is not None and capability < _NATIVE_BF16:
        return f"{device.name} has no bfloat16 of its own (compute capability {_text(capability)}, it begins at 8.0)"
    return ""


def _who(load: Load) -> str:
    """Say who uses a device."""
    names = [
        "this notebook" if process.is_own else f"{process.name or 'a process'} ({process.pid})"
        for process in load.processes
    ]
    return ", ".join(dict.fromkeys(names)) or "somebody else"


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
