"""Finding the files that weights lie in, and opening them."""

from __future__ import annotations

import ctypes
import json
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from notebook_accel.core.files.objects import can_map, read_objects
from notebook_accel.core.files.tensors import TensorFile
from notebook_accel.errors import CheckpointError, CheckpointNotFound

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class Stored(Protocol):
    """The values of one file, by name."""

    path: Path

    def keys(self) -> Any:
        """Give the names."""

    def __getitem__(self, name: str) -> Any:
        """Give a value, mapped from the file."""

    def shape_of(self, name: str) -> torch.Size | None:
        """Give the shape of a tensor, None of what is none."""

    def read_into(self, name: str, target: Tensor) -> None:
        """Read a tensor into another of its shape."""


class TorchFile:
    """Weights in torch's own format, mapped from their file; nothing that is in it is run as code.

    Args:
        path: the file.

    Raises:
        CheckpointError: it is damaged, holds code, or no weights by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        state = read_objects(path)
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            what = f"{path} holds a {type(state).__name__}, not weights by name"
            raise CheckpointError(what, "give a file of weights, such as torch.save(model.state_dict(), file)")
        self._state: Mapping[str, Any] = state
        self._is_mapped = can_map(path)

    def keys(self) -> Any:
        """Give the names."""
        return self._state.keys()

    def __getitem__(self, name: str) -> Any:
        """Give a value, mapped from the file."""
        return self._state[name]

    def shape_of(self, name: str) -> torch.Size | None:
        """Give the shape of a tensor, None of what is none."""
        value = self._state[name]
        return value.shape if isinstance(value, Tensor) else None

    def read_into(self, name: str, target: Tensor) -> None:
        """Read a tensor into another of its shape."""
        tensor = self._state[name]
        target.copy_(tensor)
        if self._is_mapped:
            _let_go(tensor)


def _let_go(tensor: Tensor) -> None:
    """Let the system have the memory of a tensor back that is mapped from a file; it is read again if it is needed."""
    if sys.platform != "linux" or not tensor.is_contiguous():
        return
    page = mmap.PAGESIZE  # what lies on a page with other tensors stays
    start, end = -(-tensor.data_ptr() // page) * page, (tensor.data_ptr() + tensor.nbytes) // page * page
    if start < end:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def opened(checkpoint: Path) -> list[Stored]:
    """Open all files of weights; nothing but their tables of contents is read.

    Args:
        checkpoint: a file of weights, an index of several, or their folder.

    Raises:
        CheckpointNotFound: there are none.
        CheckpointError: one is damaged, or lacks what the index says it holds.
    """
    index = _named(checkpoint)
    if index.suffix != ".json":
        return [_opened(index)]
    places = _places_in(index)
    files = {name: _opened(index.parent / name) for name in sorted(set(places.values()))}
    held = {name: set(file.keys()) for name, file in files.items()}
    lies = [name for name, file in places.items() if name not in held[file]]
    if lies:
        what = f"{index.parent / places[lies[0]]} does not hold {', '.join(lies)}, though {index.name} says so"
        raise CheckpointError(what, "the files are of different saves; save or download the weights again")
    return list(files.values())


def _opened(path: Path) -> Stored:
    return TensorFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _named(checkpoint: Path) -> Path:
    """Give the one file that a folder's weights are found by: of weights, or the index."""
    if checkpoint.is_file():
        return checkpoint
    if not checkpoint.is_dir():
        raise CheckpointNotFound(f"there is no file or folder {checkpoint}", "give the folder or the file of weights")
    known = [checkpoint / name for name in (*_WHOLE, *_INDEXES) if (checkpoint / name).is_file()]
    if known:
        return known[0]
    others = sorted(checkpoint.glob("*.index.json"))
    if len(others) > 1:
        names = ", ".join(path.name for path in others)
        raise CheckpointError(f"{checkpoint} holds several models: {names}", "give the path of one of these files")
    if not others:
        names = ", ".join((*_WHOLE, *_INDEXES))
        raise CheckpointNotFound(f"{checkpoint} holds no weights: none of {names}", "give the folder or the file")
    return others[0]


def _places_in(index: Path) -> dict[str, str]:
    """Give in which file of its folder each name is."""
    try:
        text = json.loads(index.read_bytes())
        places: dict[str, str] = dict(text.get("weight_map", text))
        outside = sorted({name for name in places.values() if Path(name).is_absolute() or ".." in Path(name).parts})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights: {error!r}", "give a folder or a file") from None
    if outside:
        what = f"{index} names {', '.join(outside)}, which is outside of its folder"
        raise CheckpointError(what, "do not trust it; an index names files beside it")
    missing = [name for name in sorted(set(places.values())) if not (index.parent / name).is_file()]
    if missing:
        what = f"{index} names {', '.join(missing)}, which is not there"
        raise CheckpointNotFound(what, "save or download the weights again")
    return places
