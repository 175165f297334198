"""Files of named tensors in the safetensors format: a header in JSON, and the memory of the tensors behind it.

Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from notebook_accel.core.files.sink import FileRecord, written
from notebook_accel.errors import CheckpointError

_LENGTH = struct.Struct("<Q")
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_PIECE_BYTES = 16 << 20  # of what cannot be read straight to its place


def write_tensors(
    path: Path, tensors: Mapping[str, Any], *, metadata: Mapping[str, str] | None = None, staged: bool = False
) -> FileRecord:
    """Write a file of tensors; those that are not on the CPU are brought there one after the other.

    Args:
        path: the file; there is none yet.
        tensors: by name, none of them twice.
        metadata: words to keep beside them.
        staged: as in ``written``.

    Raises:
        CheckpointError: there is no space, or the format has no place for a value.
    """
    # The largest elements first, so that each tensor begins at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-_dtype_of(path, name, tensors[name]).itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // _LENGTH.size) * _LENGTH.size)
    with written(path, staged=staged) as sink:
        sink.write(_LENGTH.pack(len(text)) + text)
        for name in order:
            sink.write(memory_of(tensors[name]))
    return sink.record


def _dtype_of(path: Path, name: str, value: object) -> torch.dtype:
    if not isinstance(value, Tensor):
        what = f"{path.name} has no place for {name!r}, a {type(value).__name__}: it holds tensors only"
        raise CheckpointError(what, "save with safe_serialization=False")
    if value.dtype not in _NAMES or value.layout is not torch.strided or value.is_meta:
        kind = "on the meta device" if value.is_meta else f"of {value.dtype}, {value.layout}"
        what = f"{path.name} has no place for {name!r}, a tensor {kind}"
        raise CheckpointError(what, "save with safe_serialization=False, or convert it")
    return value.dtype


def memory_of(tensor: Tensor) -> memoryview:
    r"""Give the memory of a tensor, a copy of it only where it is not on the CPU or has gaps.

    Args:
        tensor: has to live as long as what is returned is used.

    Example:
        >>> bytes(memory_of(torch.tensor([1, 2], dtype=torch.uint8)))
        b'\x01\x02'
    """
    whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if not whole.nbytes:
        return memoryview(b"")
    array = (ctypes.c_char * whole.nbytes).from_address(whole.data_ptr())
    array.tensor = whole  # type: ignore[attr-defined]  # keeps the memory while the view is there
    return memoryview(array).cast("B")


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file, each mapped from it when it is asked for.

    Args:
        path: a file in the safetensors format, which must stay as it is while its tensors are used.

    Raises:
        CheckpointError: it is no such file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = cast("Any", safe_open)(str(path), framework="pt", device="cpu")
        except (SafetensorError, OSError, ValueError) as error:
            what = f"{path} cannot be read: {error}"
            raise CheckpointError(what, "it is damaged or no safetensors file; load another") from None
        self._names = list(self._file.keys())
        self.metadata: dict[str, str] = self._file.metadata() or {}
        # Open until nobody needs it: another file may get this name. The library has checked what it holds.
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        (length,) = _LENGTH.unpack(os.pread(self._descriptor, _LENGTH.size, 0))
        self._header: dict[str, Any] = json.loads(os.pread(self._descriptor, length, _LENGTH.size))
        self._begin = _LENGTH.size + length

    def __getitem__(self, name: str) -> Tensor:
        """Give a tensor, on the CPU."""
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Give the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Give how many tensors there are."""
        return len(self._names)

    def shape_of(self, name: str) -> torch.Size:
        """Give the shape of a tensor without reading it."""
        return torch.Size(self._header[name]["shape"])

    def read_into(self, name: str, target: Tensor) -> None:
        """Read a tensor into another of its shape, without a second copy of it where that has the same dtype.

        Args:
            name: which.
            target: on any device, of any dtype.

        Raises:
            CheckpointError: the file has become shorter.
        """
        entry = self._header[name]
        dtype, (start, _) = _DTYPES.get(entry["dtype"]), entry["data_offsets"]
        if dtype is None:  # of several elements in a byte
            target.copy_(self[name])
            return
        is_plain = target.is_contiguous() and not (target.is_conj() or target.is_neg())
        if is_plain and target.is_cpu and target.dtype is dtype:
            self._fill(target, self._begin + start)
        elif target.is_contiguous():
            self._read_in_pieces(target.view(-1), dtype, self._begin + start)
        else:
            whole = torch.empty(target.shape, dtype=dtype)
            self._fill(whole, self._begin + start)
            target.copy_(whole)

    def _read_in_pieces(self, target: Tensor, dtype: torch.dtype, start: int) -> None:
        piece = torch.empty(min(target.numel(), _PIECE_BYTES // dtype.itemsize), dtype=dtype)
        for begin in range(0, target.numel(), max(1, piece.numel())):
            part = piece[: target.numel() - begin]
            self._fill(part, start + begin * dtype.itemsize)
            target[begin : begin + part.numel()].copy_(part)

    def _fill(self, target: Tensor, offset: int) -> None:
        view = memory_of(target)
        while view:
            count = os.preadv(self._descriptor, [view], offset)
            if not count:
                what = f"{self.path} ends before all of its tensors"
                raise CheckpointError(what, "it was changed while it was read; load it again, or another")
            view, offset = view[count:], offset + count
