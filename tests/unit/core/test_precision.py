from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from notebook_accel.core.precision import AutocastForward, make_precision, unwrap_forward
from notebook_accel.errors import ConfigError, NotAvailableError

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, *, scale: float = 1.0) -> dict[str, Any]:
        y = self.layer(x)
        self.seen.append(y.dtype)
        return {"y": y * scale, "pair": (y, "text"), "whole": torch.tensor(1)}


def test_no_precision_changes_nothing():
    model = Net()
    precision = make_precision("no", CPU)
    precision.wrap_forward(model)
    assert "forward" not in vars(model)
    with precision.autocast():
        model(torch.ones(1, 2))
    assert model.seen == [torch.float32]


def test_bf16_inside_and_32_bit_outside():
    model = Net()
    make_precision("bf16", CPU).wrap_forward(model)
    out = model(torch.ones(1, 2), scale=2.0)
    assert model.seen == [torch.bfloat16]
    assert out["y"].dtype == out["pair"][0].dtype == torch.float32
    assert out["pair"][1] == "text"
    assert out["whole"].dtype == torch.int64
    assert model.layer.weight.dtype == torch.float32
    out["y"].sum().backward()
    assert model.layer.weight.grad.dtype == torch.float32


def test_autocast_block_is_for_code_outside_the_model():
    with make_precision("bf16", CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_wrapping_twice_is_wrapping_once():
    model, precision = Net(), make_precision("bf16", CPU)
    precision.wrap_forward(model)
    first = model.forward
    precision.wrap_forward(model)
    assert model.forward is first


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_with_its_own_weights(duplicate: Any):
    model = Net()
    make_precision("bf16", CPU).wrap_forward(model)
    other = duplicate(model)
    with torch.no_grad():
        other.layer.weight.zero_()
        other.layer.bias.zero_()
        assert other(torch.ones(1, 2))["y"].tolist() == [[0, 0]]
        assert other.seen[-1] == torch.bfloat16
        assert model(torch.ones(1, 2))["y"].tolist() != [[0, 0]]
    unwrap_forward(other)
    other(torch.ones(1, 2))
    assert other.seen[-1] == torch.float32


def test_signature_stays_readable():
    model = Net()
    make_precision("bf16", CPU).wrap_forward(model)
    assert list(inspect.signature(model.forward).parameters) == ["x", "scale"]


def test_unwrapping_gives_the_own_forward_back():
    model = Net()
    unwrap_forward(model)
    make_precision("bf16", CPU).wrap_forward(model)
    unwrap_forward(model)
    assert "forward" not in vars(model)
    model.forward = lambda x: x + 1
    make_precision("bf16", CPU).wrap_forward(model)
    assert isinstance(model.forward, AutocastForward)
    unwrap_forward(model)
    assert model(1) == 2


def test_other_names_are_refused():
    with pytest.raises(NotAvailableError, match=r"fp8.*not built"):
        make_precision("fp8", CPU)
    with pytest.raises(ConfigError, match="unknown mixed_precision 'half'"):
        make_precision("half", CPU)
