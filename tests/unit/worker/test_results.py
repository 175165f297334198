from __future__ import annotations

import os

import pytest
import torch

from notebook_accel.wire import parcel, pickling
from notebook_accel.wire.outcome import Returned, Unreturnable
from notebook_accel.worker.results import preview, send_value


def sent(value: object) -> tuple[Returned | Unreturnable, object]:
    file = parcel.anonymous_file("test")
    try:
        outcome = send_value(value, file, [])
        return outcome, pickling.loads(parcel.read(file)) if isinstance(outcome, Returned) else None
    finally:
        os.close(file)


def test_tensors_and_modules_come_back():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    outcome, found = sent({"w": weight, "half": torch.ones(2, dtype=torch.bfloat16), "m": torch.nn.Linear(1, 1)})
    assert isinstance(outcome, Returned)
    assert isinstance(found["w"], torch.nn.Parameter)
    assert torch.equal(found["w"], weight)
    assert found["half"].dtype == torch.bfloat16
    assert isinstance(found["m"], torch.nn.Linear)


@pytest.mark.gpu
def test_gpu_tensors_come_back_on_the_cpu():
    value = {"p": torch.nn.Parameter(torch.ones(2, device="cuda")), "t": torch.ones(2, device="cuda")}
    _, found = sent(value)
    assert found["p"].device.type == found["t"].device.type == "cpu"
    assert isinstance(found["p"], torch.nn.Parameter)


def test_a_value_that_cannot_be_sent_is_named():
    outcome, _ = sent([1, (x for x in ())])
    assert isinstance(outcome, Unreturnable)
    assert "a value of type list cannot be sent back" in outcome.reason
    assert "generator" in outcome.reason


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, "{'a': 1}"),
        (b"x" * 1_000_000, "b'xxxxxxxxxxxxxxxxxxxx'... (1,000,000 bytes)"),
        (torch.ones(2), "tensor([1., 1.])"),
    ],
)
def test_previews(value: object, expected: str):
    assert preview(value) == expected


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), dict.fromkeys(range(1000), "y" * 1000), Rude()])
def test_a_preview_is_one_short_line(value: object):
    text = preview(value)
    assert len(text) <= 200
    assert "\n" not in text
