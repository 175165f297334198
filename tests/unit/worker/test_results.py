from __future__ import annotations

import os

import pytest
import torch

from notebook_accel.wire import parcel, pickling
from notebook_accel.wire.outcome import Returned, Unreturnable
from notebook_accel.worker.results import preview, send_value
from tests.unit.worker.forks import in_a_fresh_process


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


def test_a_prepared_model_comes_back_unwrapped_from_a_real_group():
    code = """
import os, torch, torch.distributed as dist
from notebook_accel.wire import parcel, pickling
from notebook_accel.worker.results import send_value
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
inner = torch.nn.Linear(2, 1)
model = DistributedDataParallel(inner)
file = parcel.anonymous_file("test")
print(send_value({"model": model, "again": model, "inside": torch.nn.Sequential(model)}, file, []))
found = pickling.loads(parcel.read(file))
print(type(found["model"]).__name__, found["again"] is found["model"] is found["inside"][0],
      torch.equal(found["model"].weight, inner.weight), type(model).__name__, flush=True)
os._exit(0)
"""
    lines = in_a_fresh_process(f"import os; os.environ['GLOO_SOCKET_IFNAME'] = 'lo'\n{code}").splitlines()
    assert lines[0].startswith("Returned(preview=")
    assert lines[-1] == "Linear True True DistributedDataParallel"


def test_reductions_of_numpy_and_large_tensors():
    import numpy as np

    _, found = sent({"a": np.arange(10_000.0), "t": torch.arange(10_000.0), "grad": torch.ones(2, requires_grad=True)})
    assert found["a"].sum() == found["t"].sum() == 49_995_000
    found["a"][0] = 1
    found["t"][0] = 1
    assert found["grad"].requires_grad


def test_a_full_memory_is_a_value_that_cannot_be_sent():
    read_end, write_end = os.pipe()
    os.close(write_end)
    outcome = send_value(1, read_end, [])
    os.close(read_end)
    assert isinstance(outcome, Unreturnable)
    assert "a value of type int cannot be sent back: [Errno 9]" in outcome.reason


def test_a_meta_tensor_comes_back():
    outcome, _ = sent(torch.ones(2, device="meta"))
    assert isinstance(outcome, Returned)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Rude(), "Rude"),
        ([Rude()], "Rude"),
        (10**5000, "int"),
        (bytearray(100), "(100 bytes)"),
        (torch.zeros(1000, 1000), "tensor("),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, "{'a': "),
        ("a\nb", r"'a\nb'"),
        (None, "None"),
    ],
    ids=["rude", "rude inside", "huge number", "bytearray", "tensor", "deep", "lines", "none"],
)
def test_a_preview_says_what_it_is(value: object, words: str):
    text = preview(value)
    assert words in text
    assert len(text) <= 200
    assert "\n" not in text
