"""In which precision a model computes."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from notebook_accel.core.tree import map_tree
from notebook_accel.errors import ConfigError, NotAvailableError

_NOT_BUILT = {"fp16": "needs the gradient scaler", "fp8": "needs hardware kernels"}


class Precision(Protocol):
    """What a precision does to a model and to a block of code."""

    name: str

    def autocast(self) -> AbstractContextManager[Any]:
        """Give a block whose operations run in this precision."""

    def wrap_forward(self, model: nn.Module) -> None:
        """Let ``model`` compute in this precision and answer in 32 bit."""


class Full32:
    """Null object: everything in the precision that it has."""

    name = "no"

    def autocast(self) -> AbstractContextManager[Any]:
        """Give a block without effect."""
        return nullcontext()

    def wrap_forward(self, model: nn.Module) -> None:
        """Leave ``model`` as it is."""


class BF16:
    """Operations that allow it in bfloat16; parameters, gradients and outputs in 32 bit.

    Args:
        device_type: kind of device that the model lies on.
    """

    name = "bf16"

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type

    def autocast(self) -> AbstractContextManager[Any]:
        """Give a block whose operations run in bfloat16 where that is safe."""
        return torch.autocast(self._device_type, dtype=torch.bfloat16)

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
        return map_tree(_in_32_bit, outputs)


def _in_32_bit(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in {torch.bfloat16, torch.float16} else leaf


def unwrap_forward(model: nn.Module) -> None:
    """Give ``model`` its own forward back, in place; any other model stays as it is."""
    wrapped = model.__dict__.get("forward")
    if isinstance(wrapped, AutocastForward):
        del model.forward
        if model.forward != wrapped.forward:
            model.forward = wrapped.forward


def make_precision(name: str, device: torch.device) -> Precision:
    """Give the precision called ``name``.

    Args:
        name: "no" or "bf16".
        device: where models compute.

    Raises:
        NotAvailableError: a known precision that is not built yet.
        ConfigError: an unknown one.

    Example:
        >>> make_precision("no", torch.device("cpu")).name
        'no'
    """
    if name == "no":
        return Full32()
    if name == "bf16":
        return BF16(device.type)
    hint = "use 'no' or 'bf16'"
    if name in _NOT_BUILT:
        raise NotAvailableError(f"mixed_precision={name!r} is not built yet ({_NOT_BUILT[name]})", hint)
    raise ConfigError(f"unknown mixed_precision {name!r}", hint)
