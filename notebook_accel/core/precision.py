"""In which precision a model computes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from notebook_accel.core.handlers import AutocastKwargs, GradScalerKwargs, one_of
from notebook_accel.core.scaling import LossScaling, Scaling, Unscaled
from notebook_accel.core.tree import map_tree
from notebook_accel.errors import ConfigError, NotAvailableError


class Precision:
    """What models compute in. This one is the null object: everything in the precision that it has.

    Attributes:
        name: what users call it.
        scaling: what stands between a loss and an optimizer's step.
    """

    name = "no"

    def __init__(self) -> None:
        self.scaling: Scaling = Unscaled()

    def autocast(self, handler: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        """Give a block whose operations run in this precision.

        Args:
            handler: how the block behaves; None takes what the ``Accelerator`` was built with.
        """
        del handler
        return nullcontext()

    def wrap_forward(self, model: nn.Module) -> None:
        """Let ``model`` compute in this precision and answer in 32 bit."""


class Lowered(Precision):
    """Operations that allow it in 16 bit; parameters, gradients and outputs in 32 bit.

    Args:
        name: what users call it.
        dtype: of the lowered operations.
        device_type: kind of device that models lie on.
        handler: how the blocks behave.
        scaling: what stands between a loss and an optimizer's step.
    """

    def __init__(
        self, name: str, dtype: torch.dtype, device_type: str, handler: AutocastKwargs, scaling: Scaling
    ) -> None:
        self.name = name
        self.scaling = scaling
        self._dtype = dtype
        self._device_type = device_type
        self._handler = handler

    def autocast(self, handler: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
        """Give a block whose operations run in 16 bit where that is safe."""
        how = self._handler if handler is None else handler
        return torch.autocast(self._device_type, self._dtype, enabled=how.enabled, cache_enabled=how.cache_enabled)

    def wrap_forward(self, model: nn.Module) -> None:
        """Put an ``AutocastForward`` before the model's forward, unless there is one."""
        if not isinstance(model.forward, AutocastForward):
            model.forward = AutocastForward(model.forward, self)


class AutocastForward:
    """A model's forward under autocast, with outputs in 32 bit.

    An object and not a closure, so that a copied or pickled model calls its own weights.

    Args:
        forward: the model's own forward.
        precision: gives the autocast block.
    """

    def __init__(self, forward: Any, precision: Precision) -> None:
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.precision = precision

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's own forward."""
        with self.precision.autocast():
            outputs = self.forward(*args, **kwargs)
        return map_tree(in_32_bit, outputs)


def in_32_bit(leaf: Any) -> Any:
    """Give a tensor of 16-bit floats in 32 bit, and anything else as it is."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in {torch.bfloat16, torch.float16} else leaf


def unwrap_forward(model: nn.Module) -> None:
    """Give ``model`` its own forward back, in place; any other model stays as it is."""
    wrapped = model.__dict__.get("forward")
    if isinstance(wrapped, AutocastForward):
        del model.forward
        if model.forward != wrapped.forward:
            model.forward = wrapped.forward


def make_precision(name: str, device: torch.device, handlers: Sequence[object] = ()) -> Precision:
    """Give the precision called ``name``.

    Args:
        name: "no", "bf16" or "fp16".
        device: where models compute.
        handlers: such as ``AutocastKwargs`` and ``GradScalerKwargs``.

    Raises:
        NotAvailableError: the device, or this package, cannot do it.
        ConfigError: an unknown one.

    Example:
        >>> make_precision("no", torch.device("cpu")).name
        'no'
    """
    if name == "no":
        return Precision()
    if name not in ("bf16", "fp16"):
        hint = "use 'no', 'bf16' or 'fp16'"
        if name == "fp8":
            raise NotAvailableError("mixed_precision='fp8' is not built (it needs kernels of its own)", hint)
        raise ConfigError(f"unknown mixed_precision {name!r}", hint)
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    _check_device(name, dtype, device)
    scaling: Scaling = Unscaled()
    if dtype is torch.float16:
        scaling = LossScaling(device.type, one_of(GradScalerKwargs, handlers))
    return Lowered(name, dtype, device.type, one_of(AutocastKwargs, handlers), scaling)


def _check_device(name: str, dtype: torch.dtype, device: torch.device) -> None:
    can = device.type != "cuda" or dtype is torch.float16 or torch.cuda.is_bf16_supported()
    if not can or not _autocast_takes(dtype, device):
        what = f"mixed_precision={name!r} is not possible on {_name_of(device)} with torch {torch.__version__}"
        raise NotAvailableError(what, "use 'no', or 'fp16' on a GPU that has no bfloat16")


def _autocast_takes(dtype: torch.dtype, device: torch.device) -> bool:
    with warnings.catch_warnings(record=True) as said:  # torch warns, and computes in 32 bit
        warnings.simplefilter("always")
        try:
            torch.autocast(device.type, dtype)
        except RuntimeError:
            return False
    return not said


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
