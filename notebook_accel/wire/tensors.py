"""Torch's memory on its way: every storage travels once, its bytes beside the pickle and not in it.

Torch reduces a tensor of any kind (a view, a parameter, a subclass, quantised, sparse) to its storage and what
describes the view of it. Only that storage is reduced here, so all kinds of tensors stay torch's own business.
A storage that several tensors view stays one; plain pickle would make one for each.

Over there a large storage lies in the parcel itself, without a copy. It can be written to, moved and shared like any
other, but not grown: ``resize_`` beyond its size raises torch's "Trying to resize storage that is not resizable".
A small one is torch's own memory and can be resized. The whole storage travels, even for a small view of it.

This module serves both sides and never imports torch before somebody rebuilds a tensor.
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Reduction = Callable[[Any], Any]
_NO_DEVICE = frozenset({"cpu", "meta"})
_WITHOUT_STORAGES = frozenset({"xla", "tpu", "maia", "mtia"})  # their tensors travel as values, not as storages


class ForeignDeviceError(Exception):
    """A tensor lies on a device that the ranks must not share with the kernel.

    Args:
        device: the device's name, for example ``cuda:0``.
    """

    def __init__(self, device: str) -> None:
        super().__init__(f"a tensor lies on the device {device}")
        self.device = device


class StorageReducer:
    """Reduces torch's storages for one pickler, each of them once.

    Args:
        to_cpu: bring what lies on a device to the CPU; otherwise it raises ``ForeignDeviceError``.
    """

    def __init__(self, *, to_cpu: bool = False) -> None:
        self._to_cpu = to_cpu
        self._reductions: dict[type, Reduction | None] = {}  # by type: almost no object is torch's
        self._sent: dict[int, tuple[Any, Any]] = {}  # storages by address, and what is sent in their place

    def __call__(self, obj: object) -> Any:
        """Reduce a storage, refuse or move what lies on a device, and leave the rest."""
        cls = type(obj)
        try:
            reduce = self._reductions[cls]
        except KeyError:
            reduce = self._reductions[cls] = self._reduction_for(cls)
        return NotImplemented if reduce is None else reduce(obj)

    def _reduction_for(self, cls: type) -> Reduction | None:
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "UntypedStorage"):  # not there, or a thread is just importing it
            return None
        if cls is torch.UntypedStorage:
            return self._reduce_storage
        if cls is torch.TypedStorage:
            return self._reduce_typed_storage
        if issubclass(cls, torch.Tensor) and not _is_fake(cls):
            return self._reduce_tensor
        return None

    def _reduce_tensor(self, tensor: Any) -> Any:
        on_device = tensor.device.type not in _NO_DEVICE
        if on_device and not self._to_cpu:
            raise ForeignDeviceError(str(tensor.device))
        if on_device and not _comes_with_its_storage(tensor):
            tensor = tensor.detach().cpu().requires_grad_(tensor.requires_grad)
        elif tensor.dtype not in sys.modules["torch"].storage._new_dtypes():  # noqa: SLF001 - see _mended
            return NotImplemented
        return _mended(tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL))

    def _reduce_typed_storage(self, storage: Any) -> Any:
        return typed_storage, (self._once(storage._untyped_storage), storage.dtype)  # noqa: SLF001 - untyped() warns

    def _reduce_storage(self, storage: Any) -> Any:
        sent = self._once(storage)
        if sent is not storage:
            return same, (sent,)
        size, address = storage.nbytes(), storage.data_ptr()
        if size and not address:  # on "meta", for example
            return NotImplemented
        return rebuild_storage, (_bytes_at(address, size, storage) if size else b"",)

    def _once(self, storage: Any) -> Any:
        """Give the one object that stands for this memory, on the CPU."""
        identity: int = storage._cdata  # noqa: SLF001 - of the memory; torch may wrap it in a new object each time
        if identity not in self._sent:
            sent = self._on_cpu(storage)
            self._sent[identity] = (storage, sent)  # both are kept, so that no address is used twice
            self._sent[sent._cdata] = (sent, sent)  # noqa: SLF001 - as above
        return self._sent[identity][1]

    def _on_cpu(self, storage: Any) -> Any:
        if storage.device.type in _NO_DEVICE:
            return storage
        if not self._to_cpu:
            raise ForeignDeviceError(str(storage.device))
        return storage.cpu()


def _is_fake(cls: type) -> bool:
    """Say whether tensors of this class only claim to lie on their device."""
    fakes = sys.modules.get("torch._subclasses.fake_tensor")
    return fakes is not None and issubclass(cls, fakes.FakeTensor)


def _comes_with_its_storage(tensor: Any) -> bool:
    """Say whether torch reduces a device's tensor to storages, not to a value for that device.

    A parameter is reduced to its ``data``, and a sparse or nested tensor to its parts; those come here in their turn.
    """
    torch = importlib.import_module("torch")
    if type(tensor) is torch.nn.Parameter or tensor.layout is not torch.strided or tensor.is_nested:
        return True
    if tensor.device.type in _WITHOUT_STORAGES or not torch._C._has_storage(tensor):  # noqa: SLF001 - as torch asks it
        return False
    return not tensor.untyped_storage().nbytes() or bool(tensor.data_ptr())  # a wrapper has a size and no memory


def _mended(reduction: Any) -> Any:
    """Put the storage of one of the newer types, float8 for one, into the wrapper that torch's own rebuilding takes.

    Torch leaves the wrapper out and can therefore not load such tensors from a plain pickle.
    """
    utils = importlib.import_module("torch._utils")
    rebuild, args, *rest = reduction
    if rebuild is utils._rebuild_tensor_v3:  # noqa: SLF001 - part of torch's format
        storage, *view = args
        return rebuild, (_as_typed(storage), *view), *rest
    if rebuild is importlib.import_module("torch._tensor")._rebuild_from_type_v2:  # noqa: SLF001 - the same
        inner, cls, inner_args, state = args
        return rebuild, (inner, cls, _mended((inner, inner_args))[1], state), *rest
    return reduction


def _as_typed(storage: Any) -> Any:
    torch = importlib.import_module("torch")
    return typed_storage(storage, torch.uint8) if type(storage) is torch.UntypedStorage else storage


def _bytes_at(address: int, size: int, owner: object) -> pickle.PickleBuffer:
    """View memory without a copy; the view keeps its owner alive."""
    memory = (ctypes.c_ubyte * size).from_address(address)
    memory.owner = owner  # type: ignore[attr-defined]  # ctypes arrays take attributes
    return pickle.PickleBuffer(memory)


def rebuild_storage(content: bytes | bytearray | memoryview) -> Any:
    """Make a storage of ``content``: of torch's own memory if it came in the pickle, else over the parcel's."""
    torch = importlib.import_module("torch")
    if not len(content):
        return torch.UntypedStorage(0, device="cpu")
    mapped = torch.frombuffer(content, dtype=torch.uint8)
    return (mapped.clone() if isinstance(content, bytearray) else mapped).untyped_storage()


def typed_storage(storage: Any, dtype: Any) -> Any:
    """Put a storage into torch's older kind, which is part of how torch reduces tensors."""
    torch = importlib.import_module("torch")
    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


@contextmanager
def releasing_sparse_tensors() -> Iterator[None]:
    """Let sparse tensors that are rebuilt meanwhile go when nobody needs them, and the parcel with them.

    Torch keeps a list of them for ``torch.load`` to check, which never comes to it here.
    """
    before = len(_unchecked_sparse_tensors())
    try:
        yield
    finally:
        del _unchecked_sparse_tensors()[before:]


def _unchecked_sparse_tensors() -> list[object]:
    return getattr(sys.modules.get("torch._utils"), "_sparse_tensors_to_validate", [])


def same(storage: Any) -> Any:
    """Give the storage that was sent in place of another one."""
    return storage
