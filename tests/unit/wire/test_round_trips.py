"""Whatever a notebook holds arrives as plain cloudpickle would bring it, and views of one memory stay views of one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import cloudpickle
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("hypothesis")

from hypothesis import given, settings  # noqa: E402 - only where it is
from hypothesis import strategies as st  # noqa: E402 - only where it is

from notebook_accel.wire import parcel, pickling  # noqa: E402 - only where torch is
from notebook_accel.wire.pickling import JobPickler, ResultPickler  # noqa: E402 - only where torch is

ARRAY_TYPES = ["?", "i1", "u2", ">i4", "f2", "<f4", "f8", "c8", "S3", "U2", "M8[s]", "V5", "i4,f8", "O"]
TENSOR_TYPES = [
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]
STEPS = [1, 2, 3]


@dataclass
class Held:
    """A user's object."""

    first: object
    second: object


@dataclass(frozen=True)
class Key:
    """A user's object that can be hashed."""

    number: float
    text: str


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.lists(st.sampled_from([0, 1, 3, 40]), max_size=3))
    size = math.prod(shape)
    array = np.arange(size).astype("i4").astype(draw(st.sampled_from(ARRAY_TYPES))).reshape(shape)
    array = np.asarray(array, order=draw(st.sampled_from("CF")))
    if draw(st.booleans()):
        array = array.T
    for axis in range(array.ndim):
        step = draw(st.sampled_from([*STEPS, -1]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        array.setflags(write=False)
    return array


@st.composite
def storage_views(draw: st.DrawFn) -> list[torch.Tensor]:
    """Some views of one storage."""
    dtype = draw(st.sampled_from(TENSOR_TYPES))
    whole = torch.arange(draw(st.sampled_from([0, 1, 60, 3000]))).to(dtype)
    made = []
    for _ in range(draw(st.integers(1, 3))):
        view = whole[draw(st.integers(0, 5)) :: draw(st.sampled_from(STEPS))]
        if draw(st.booleans()):
            view = view.as_strided((view.numel() // 2, 2), (view.stride(0) * 2, view.stride(0)), view.storage_offset())
        if draw(st.booleans()):
            view = view.mT if view.ndim == 2 else view[:, None].expand(-1, 2)
        if dtype.is_complex and draw(st.booleans()):
            view = view.conj()
        if dtype.is_floating_point and draw(st.booleans()):
            view = torch.nn.Parameter(view) if draw(st.booleans()) else view.detach().requires_grad_()
        made.append(view)
    return made


hashables = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(Key, st.floats(allow_nan=False), st.text(max_size=3)),
)
leaves = st.one_of(
    hashables,
    arrays(),
    storage_views(),
    st.integers(0, 9000).map(bytearray),
    st.integers(0, 9000).map(bytes),
    st.frozensets(hashables, max_size=3),
)


def nested(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.builds(Held, inner, inner),
        inner.map(lambda value: [value, {"again": value}]),
    )


payloads = st.recursive(leaves, nested, max_leaves=12)


def flat(value: object) -> Iterator[object]:
    """Give the value and everything in it, in an order that pickling keeps."""
    yield value
    if isinstance(value, dict):
        for pair in value.items():
            yield from flat(pair)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from flat(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from flat(getattr(value, field.name))


def described(value: object) -> object:
    """Say what one value is, apart from what it holds."""
    if isinstance(value, np.ndarray):
        raw = repr(value.tolist()) if value.dtype.hasobject else value.tobytes()
        return value.dtype.str, value.dtype.descr, value.shape, value.strides, value.flags.writeable, raw
    if isinstance(value, torch.Tensor):
        plain = value.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
        content = plain.flatten().view(torch.uint8).numpy().tobytes()
        flags = (value.requires_grad, value.is_conj(), value.is_leaf)
        return value.dtype, tuple(value.shape), value.stride(), value.storage_offset(), flags, content
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, (dict, list, tuple)):
        return len(value)
    return repr(value)


def pattern(identities: list[int]) -> list[int]:
    """Number identities in the order of their coming, so that two of them can be compared."""
    return [identities.index(identity) for identity in identities]


MUTABLE = (list, dict, set, bytearray, Held, np.ndarray, torch.Tensor)


def shared(parts: list[object]) -> list[int]:
    return pattern([id(part) for part in parts if isinstance(part, MUTABLE)])


def storages(parts: list[object]) -> list[int]:
    return pattern([part.untyped_storage()._cdata for part in parts if isinstance(part, torch.Tensor)])


@pytest.mark.parametrize("direction", ["job", "result", "result in band"])
@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(value=payloads)
def test_a_payload_arrives_as_cloudpickle_would_bring_it(direction: str, value: object):
    pickler = JobPickler() if direction == "job" else ResultPickler([], in_band=direction != "result")
    file = parcel.anonymous_file("test")
    try:
        parcel.write(file, pickler.parcel(value))
        found = list(flat(pickling.loads(parcel.read(file))))
    finally:
        os.close(file)
    expected = list(flat(cloudpickle.loads(cloudpickle.dumps(value))))
    assert [type(part) for part in found] == [type(part) for part in expected]
    assert [described(part) for part in found] == [described(part) for part in expected]
    assert shared(found) == shared(expected)
    assert storages(found) == storages(list(flat(value))), "where cloudpickle makes one storage for each tensor"
