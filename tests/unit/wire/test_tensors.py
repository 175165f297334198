from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tracemalloc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402 - only where torch is
from torch.utils.data import TensorDataset  # noqa: E402 - only where torch is

from notebook_accel.wire import parcel, pickling  # noqa: E402 - only where torch is
from notebook_accel.wire.parcel import Parcel  # noqa: E402 - only where torch is
from notebook_accel.wire.pickling import JobPickler, ResultPickler  # noqa: E402 - only where torch is
from notebook_accel.wire.tensors import ForeignDeviceError, StorageReducer  # noqa: E402 - only where torch is

ROOT = Path(__file__).resolve().parents[3]
LARGE = 5000  # numbers: beyond what stays in the pickle, for every type but the smallest


class Marked(torch.Tensor):
    """A subclass as people write them."""


class Wrapper(torch.Tensor):
    """A tensor that only claims to lie on a device; its numbers are elsewhere."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: str = "cuda:0") -> Wrapper:  # noqa: PYI034 - Self is not in Python 3.10
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: object, types: object, args: tuple = (), kwargs: object = None) -> object:
        if func is torch.ops.aten.detach.default:
            return Wrapper(args[0].inner)
        if func is torch.ops.aten._to_copy.default:
            return args[0].inner.clone()
        raise NotImplementedError(str(func))


def through_a_file(packed: Parcel, readers: int = 1) -> list[object]:
    file = parcel.anonymous_file("test")
    try:
        parcel.write(file, packed)
        return [pickling.loads(parcel.read(file)) for _ in range(readers)]
    finally:
        os.close(file)


def sent(value: object) -> object:
    return through_a_file(JobPickler().parcel(value))[0]


def returned(value: object) -> object:
    return through_a_file(ResultPickler([]).parcel(value))[0]


def numbers(count: int = LARGE) -> torch.Tensor:
    return torch.arange(float(count))


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)


CASES: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": numbers,
    "strided view": lambda: numbers()[7::3],
    "transposed": lambda: numbers().view(50, 100).t(),
    "channels last": lambda: numbers(6000).view(2, 3, 20, 50).contiguous(memory_format=torch.channels_last),
    "expanded": lambda: numbers(1500)[:, None].expand(1500, 4),
    "one expanded number": lambda: torch.ones(()).expand(LARGE),
    "no numbers": lambda: torch.empty(0),
    "no numbers in three dimensions": lambda: torch.empty(2, 0, 3),
    "no numbers of a large storage": lambda: numbers()[LARGE:],
    "a number": lambda: torch.tensor(3.5),
    "a number of a large storage": lambda: numbers()[4000],
    "just in the pickle": lambda: numbers(1023),
    "just beside it": lambda: numbers(1024),
    "requires grad": lambda: numbers().requires_grad_(),
    "small, requires grad": lambda: torch.ones(2, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(numbers()),
    "frozen parameter": lambda: torch.nn.Parameter(numbers(), requires_grad=False),
    "buffer": lambda: torch.nn.Buffer(numbers()),
    "bfloat16": lambda: numbers().bfloat16(),
    "float8": lambda: numbers().to(torch.float8_e4m3fn),
    "complex": lambda: torch.complex(numbers(), -numbers()),
    "conjugated": lambda: torch.complex(numbers(), -numbers()).conj(),
    "negated": lambda: torch.complex(numbers(), -numbers()).conj().imag,
    "bool": lambda: numbers() > 17,
    "float8 subclass": lambda: numbers().to(torch.float8_e4m3fn).as_subclass(Marked),
    "int64": lambda: torch.arange(LARGE),
    "uint16": lambda: torch.arange(LARGE).to(torch.uint16),
    "not a number": lambda: torch.full((LARGE,), float("nan")),
    "subclass": lambda: numbers().as_subclass(Marked),
    "in shared memory": lambda: numbers().share_memory_(),
    "no leaf": lambda: numbers().requires_grad_() * 2,
}


@pytest.mark.parametrize("way", [sent, returned])
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_tensor_arrives_as_it_was(make: Callable[[], torch.Tensor], way: Callable[[object], object]):
    tensor = make()
    found = way(tensor)
    assert type(found) is type(tensor)
    assert isinstance(found, torch.nn.Buffer) == isinstance(tensor, torch.nn.Buffer)
    for of in ("dtype", "shape", "device", "layout", "requires_grad"):
        assert getattr(found, of) == getattr(tensor, of)
    for of in ("stride", "storage_offset", "is_conj", "is_neg"):
        assert getattr(found, of)() == getattr(tensor, of)()
    assert found.untyped_storage().nbytes() == tensor.untyped_storage().nbytes()
    assert torch.equal(as_bits(found), as_bits(tensor))
    assert found.is_leaf, "the graph stays where it is, as torch has it"


def test_only_what_is_large_goes_beside_the_pickle_and_does_so_once():
    large = numbers()
    packed = JobPickler().parcel({"a": large, "b": large[3:], "c": large.view(50, 100), "small": numbers(1023)})
    assert [buffer.nbytes for buffer in packed.buffers] == [4 * LARGE]
    assert len(packed.body) < 4096 + 2000


def test_the_numbers_are_not_copied_before_they_are_written():
    tensor = numbers()
    (buffer,) = JobPickler().parcel(tensor).buffers
    tensor[0] = 17
    assert np.frombuffer(buffer, np.float32)[0] == 17


def test_the_buffers_keep_the_numbers_alive_and_let_them_go():
    storage = weakref.ref((made := numbers()).untyped_storage())
    packed = JobPickler().parcel(made)
    del made
    gc.collect()
    assert storage() is not None
    assert np.frombuffer(packed.buffers[0], np.float32)[-1] == LARGE - 1
    del packed
    gc.collect()
    assert storage() is None


def test_views_of_one_storage_still_see_what_is_written_through_one():
    whole = numbers()
    found = sent([whole, whole[10:20], whole.view(50, 100).t(), TensorDataset(whole[: LARGE // 2], whole[::2])])
    found[0][12] = -1
    assert found[1][2] == found[2][12, 0] == found[3].tensors[0][12] == found[3].tensors[1][6] == -1
    assert whole[12] == 12
    assert len({tensor.untyped_storage()._cdata for tensor in (*found[:3], *found[3].tensors)}) == 1


@pytest.mark.parametrize("count", [10, LARGE], ids=["small", "large"])
def test_one_object_stays_one_and_two_stay_two(count: int):
    tensor = numbers(count)
    first, again, other = sent([tensor, tensor, tensor.clone()])
    assert first is again
    first[0] = 5
    assert other[0] == 0


def test_parameters_that_share_a_storage():
    parameter = torch.nn.Parameter(numbers())
    found, view, data = sent([parameter, torch.nn.Parameter(parameter.data[5:]), parameter.data])
    found.data[5] = -1
    assert view[0] == data[5] == -1


def test_a_module_with_tied_weights_a_buffer_and_a_module_inside():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Sequential(torch.nn.Linear(64, 64)))
    model[1][0].weight = model[0].weight
    model.register_buffer("seen", numbers())
    packed = JobPickler().parcel(model)
    assert sorted(buffer.nbytes for buffer in packed.buffers) == [64 * 64 * 4, 4 * LARGE]
    (found,) = through_a_file(packed)
    assert found[1][0].weight is found[0].weight
    assert [name for name, _ in found.named_buffers()] == ["seen"]
    assert found.state_dict().keys() == model.state_dict().keys()
    torch.optim.SGD(found.parameters(), 0.1).zero_grad()
    found(torch.ones(1, 64)).sum().backward()
    torch.optim.SGD(found.parameters(), 0.1).step()
    assert not torch.equal(found[0].weight, model[0].weight)


def test_the_state_of_a_model_and_of_its_optimizer():
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    found = returned(state)
    assert found["model"]._metadata == state["model"]._metadata
    torch.testing.assert_close(found, state, rtol=0, atol=0)


def test_gradients_stay_behind_as_torch_has_it():
    tensor = torch.nn.Parameter(numbers())
    tensor.sum().backward()
    assert cloudpickle.loads(cloudpickle.dumps(tensor)).grad is None
    assert sent(tensor).grad is None


def test_hooks_stay_behind_with_torchs_warning():
    tensor = numbers().requires_grad_()
    tensor.register_hook(lambda grad: grad)
    with pytest.warns(UserWarning, match="hooks"):
        found = sent(tensor)
    assert not found._backward_hooks


@pytest.mark.parametrize(
    "make", [numbers, lambda: torch.nn.Parameter(numbers()), lambda: numbers().as_subclass(Marked)]
)
def test_attributes_of_a_tensor_come_along(make: Callable[[], torch.Tensor]):
    tensor = make()
    tensor.note = ["kept", numbers()]
    packed = JobPickler().parcel(tensor)
    assert [buffer.nbytes for buffer in packed.buffers] == [4 * LARGE] * 2
    (found,) = through_a_file(packed)
    assert type(found) is type(tensor)
    assert found.note[0] == "kept"
    assert torch.equal(found.note[1], numbers())


def test_quantised_tensors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that they go away
        one = torch.quantize_per_tensor(numbers(), 0.5, 3, torch.qint8)
        many = torch.quantize_per_channel(
            numbers().view(2, -1), torch.tensor([0.5, 0.1]), torch.tensor([0, 1]), 0, torch.quint8
        )
        packed = JobPickler().parcel([one, many])
        found = through_a_file(packed)[0]
        assert [buffer.nbytes for buffer in packed.buffers] == [LARGE, LARGE]
        assert torch.equal(found[0].int_repr(), one.int_repr())
        assert (found[0].q_scale(), found[0].q_zero_point()) == (0.5, 3)
        assert torch.equal(found[1].dequantize(), many.dequantize())


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:The PyTorch API of nested tensors")
def test_sparse_and_nested_tensors():
    dense = torch.diag(numbers(2000) + 1)
    nested = torch.nested.nested_tensor([numbers(), numbers(2000)], layout=torch.strided)
    packed = JobPickler().parcel([dense.to_sparse(), dense.to_sparse_csr(), nested])
    assert len(packed.buffers) >= 5
    coo, csr, found = through_a_file(packed)[0]
    assert coo.layout == torch.sparse_coo
    assert csr.layout == torch.sparse_csr
    assert torch.equal(coo.to_dense(), dense)
    assert torch.equal(csr.to_dense(), dense)
    assert [len(part) for part in found.unbind()] == [LARGE, 2000]


def test_storages_themselves():
    tensor = numbers()
    typed, untyped = tensor._typed_storage(), tensor.untyped_storage()
    found_typed, found_untyped, found_tensor = sent([typed, untyped, tensor])
    assert (type(found_typed), type(found_untyped)) == (torch.TypedStorage, torch.UntypedStorage)
    assert found_typed.dtype == torch.float32
    found_tensor[1] = -1
    assert found_typed._untyped_storage._cdata == found_untyped._cdata == found_tensor.untyped_storage()._cdata
    assert found_untyped.nbytes() == 4 * LARGE


def test_tensors_over_a_file_send_their_numbers(tmp_path: Path):
    numbers().numpy().tofile(tmp_path / "raw")
    torch.save({"w": numbers()}, tmp_path / "saved")
    raw = torch.from_file(str(tmp_path / "raw"), shared=True, size=LARGE)
    saved = torch.load(tmp_path / "saved", mmap=True)["w"]
    for found in sent([raw, saved]):
        assert torch.equal(found, numbers())
        found[0] = 5
    assert raw[0] == saved[0] == 0


@pytest.mark.parametrize("pickler", [JobPickler, lambda: ResultPickler([])], ids=["job", "result"])
def test_tensors_without_numbers(pickler: Callable[[], JobPickler]):
    found = through_a_file(pickler().parcel(torch.ones(2, 3, device="meta", requires_grad=True)))[0]
    assert (found.device.type, found.shape, found.requires_grad) == ("meta", (2, 3), True)
    with pytest.raises(NotImplementedError, match="meta"):  # torch's own words
        pickler().parcel(torch.UntypedStorage(10, device="meta"))


@pytest.mark.parametrize("to_cpu", [False, True])
def test_fake_tensors_are_left_to_torch(to_cpu: bool):
    with FakeTensorMode():
        fakes = [torch.ones(LARGE), torch.ones(LARGE, device="cuda")]
    assert [StorageReducer(to_cpu=to_cpu)(fake) for fake in fakes] == [NotImplemented] * 2


def test_what_a_reader_writes_stays_with_it():
    tensor = numbers()
    first, second = through_a_file(JobPickler().parcel(tensor), readers=2)
    first.fill_(-1)
    assert torch.equal(second, numbers())
    assert torch.equal(tensor, numbers())


def test_a_small_tensor_can_grow_and_a_large_one_says_that_it_cannot():
    small, large = sent([numbers(10), numbers()])
    assert small.resize_(LARGE).shape == (LARGE,)
    assert large.resize_(10).shape == (10,)
    with pytest.raises(RuntimeError, match="not resizable"):
        large.resize_(2 * LARGE)
    with pytest.raises(RuntimeError, match="not resizable"):
        large.untyped_storage().resize_(8 * LARGE)
    assert large.set_(numbers(3)).tolist() == [0, 1, 2]


def test_a_tensor_that_came_can_be_shared_and_sent_on():
    found = sent(sent(numbers()).share_memory_())
    assert torch.equal(found, numbers())


def test_a_tensor_outlives_everything_else_of_its_parcel():
    found = sent({"kept": numbers()[5:10], "dropped": bytearray(LARGE)})["kept"]
    gc.collect()
    assert found.tolist() == [5, 6, 7, 8, 9]


def test_an_exception_with_tensors_stays_in_one_piece():
    error = ValueError("bad", numbers(), numbers(10))
    packed = ResultPickler([], in_band=True).parcel(error)
    assert packed.buffers == ()
    found = pickling.loads(Parcel(bytes(packed.body)))
    assert torch.equal(found.args[1], numbers())
    assert found.args[1].resize_(2 * LARGE).shape == (2 * LARGE,), "it is torch's own memory"


@pytest.mark.parametrize("where", ["alone", "in a dict", "as a parameter", "in an attribute"])
def test_a_job_with_a_tensor_on_a_device_is_refused(where: str):
    tensor = Wrapper(numbers())
    value = {
        "alone": lambda: tensor,
        "in a dict": lambda: {"a": [tensor]},
        "as a parameter": lambda: torch.nn.Parameter(tensor),
        "in an attribute": lambda: setattr(holder := torch.nn.Linear(1, 1), "x", tensor) or holder,
    }[where]()
    with pytest.raises(ForeignDeviceError, match="cuda:0") as caught:
        JobPickler().parcel(value)
    assert caught.value.device == "cuda:0"


def test_a_job_with_a_storage_on_a_device_is_refused():
    with pytest.raises(ForeignDeviceError, match="cuda:0"):
        JobPickler().parcel(Wrapper(numbers()).untyped_storage())


def test_a_wrapper_around_tensors_is_returned_as_what_it_is_on_the_cpu():
    first, again = returned([tensor := Wrapper(numbers()), tensor])
    assert first is again
    assert type(first) is torch.Tensor
    assert torch.equal(first, numbers())


@pytest.mark.gpu
def test_tensors_of_a_gpu_are_returned_by_storage():
    whole = numbers().cuda()
    parameter = torch.nn.Parameter(whole[:100])
    packed = ResultPickler([]).parcel({"whole": whole, "view": whole[3:], "parameter": parameter, "again": parameter})
    assert [buffer.nbytes for buffer in packed.buffers] == [4 * LARGE]
    (found,) = through_a_file(packed)
    assert {tensor.device.type for tensor in found.values()} == {"cpu"}
    assert found["parameter"] is found["again"]
    found["whole"][5] = -1
    assert found["view"][2] == found["parameter"][5] == -1
    with pytest.raises(ForeignDeviceError, match="cuda:0"):
        JobPickler().parcel(parameter)


def test_the_callers_reducers_come_first():
    def reduce(obj: object) -> object:
        return (str, ("mine",)) if isinstance(obj, torch.Tensor) else NotImplemented

    assert through_a_file(JobPickler([reduce]).parcel([numbers()])) == [["mine"]]
    assert through_a_file(ResultPickler([], [reduce]).parcel([numbers()])) == [["mine"]]


def test_a_default_device_of_the_rank_changes_nothing():
    with torch.device("meta"):
        small, large, none = sent(
            [numbers := torch.ones(3, device="cpu"), torch.ones(LARGE, device="cpu"), numbers[:0]]
        )
    assert {tensor.device.type for tensor in (small, large, none)} == {"cpu"}
    assert large.sum() == LARGE


def test_neither_side_copies_the_numbers_into_its_own_memory():
    size = 100 << 20
    tensor = torch.ones(size, dtype=torch.uint8)
    file = parcel.anonymous_file("test")
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packed = JobPickler().parcel({"a": tensor, "m": torch.nn.Parameter(tensor, requires_grad=False)})
    parcel.write(file, packed)
    found = pickling.loads(parcel.read(file))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    os.close(file)
    assert found["a"].numel() == size
    assert peak < size / 10
    assert grown < size / 2


def test_a_kernel_without_torch_stays_without():
    code = """
import collections, datetime, os, sys
from notebook_accel.wire import parcel, pickling
value = [datetime.date(2020, 1, 1), collections.OrderedDict(a=1), bytearray(10_000), print]
for pickler in (pickling.JobPickler(), pickling.ResultPickler([])):
    file = parcel.anonymous_file("test")
    parcel.write(file, pickler.parcel(value))
    assert pickling.loads(parcel.read(file)) == value
print("torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout == "False\n"
