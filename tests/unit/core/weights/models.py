"""Models of any tensors, for properties over shapes, dtypes and shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64)
# "again" is the same tensor under another name, the next two are views of another's memory, which may overlap.
KINDS = ("plain", "transposed", "again", "first half", "flat")


@dataclass(frozen=True)
class Spec:
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    of: int  # which of the tensors before it is meant, where it is one of them


def specs(kinds: tuple[str, ...] = KINDS, dtypes: tuple[torch.dtype, ...] = FLOATS + OTHERS, least: int = 0) -> Any:
    shapes = st.lists(st.integers(least, 5), max_size=3).map(tuple)
    one = st.builds(Spec, shapes, st.sampled_from(dtypes), st.sampled_from(kinds), st.integers(0, 4))
    return st.lists(one, max_size=6)


def bag(wanted: list[Spec], seed: int, device: str = "cpu") -> nn.Module:
    """A model of these tensors: parameters where they may be, otherwise buffers, some of them in a submodule."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Module()
    model.add_module("inner", nn.Module())
    made: list[Tensor] = []
    for number, spec in enumerate(wanted):
        tensor = _made(spec, made, generator, device)
        made.append(tensor)
        home = model.get_submodule("inner") if number % 2 else model
        if isinstance(tensor, nn.Parameter):
            home.register_parameter(f"t{number}", tensor)
        else:
            home.register_buffer(f"t{number}", tensor)
    return model


def _made(spec: Spec, made: list[Tensor], generator: torch.Generator, device: str) -> Tensor:
    other = made[spec.of % len(made)] if made else None
    if spec.kind == "again" and other is not None:
        return other
    if spec.kind == "first half" and other is not None and other.ndim:
        return other.detach()[: len(other) // 2]
    if spec.kind == "flat" and other is not None and other.is_contiguous():
        return other.detach().view(-1)
    shape = spec.shape[::-1] if spec.kind == "transposed" else spec.shape
    tensor = torch.randint(0, 2, shape, generator=generator).to(spec.dtype).to(device)
    if spec.kind == "transposed":
        return tensor.permute(tuple(range(tensor.ndim))[::-1])
    return nn.Parameter(tensor) if tensor.is_floating_point() and spec.of % 2 else tensor


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Also a single element's stride is 1 in a copy, which a view as bytes asks for."""
    return tensor.reshape(-1).clone(memory_format=torch.contiguous_format)


def contents(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What a model holds, bit by bit."""
    return {
        name: (tensor.dtype, tuple(tensor.shape), _flat(tensor).view(torch.uint8).tolist())
        for name, tensor in model.state_dict().items()
    }
