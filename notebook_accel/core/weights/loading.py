"""Loading weights into a model: from one file or many, mapped from the disk, straight to where they belong."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from notebook_accel.core.files.objects import read_objects
from notebook_accel.core.files.tensors import TensorFile
from notebook_accel.core.weights.sharing import tie, tied_names
from notebook_accel.errors import CheckpointError, CheckpointNotFound, ConfigError, NotAvailableError

_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_MOST_NAMES = 5
_PREFIX = "module."  # what DistributedDataParallel puts before each name
Place = int | str | torch.device


def load_checkpoint_in_model(
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    device_map: Mapping[str, Place] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    offload_state_dict: bool = False,
    strict: bool = False,
    **others: Any,
) -> None:
    """Load weights into a model, one file after the other, so that a model needs memory once.

    Args:
        model: any model, also on the meta device.
        checkpoint: a file of weights, an index of several, or a folder that holds either.
        device_map: where submodules go, by the beginning of their names; "" is the whole model. None leaves every
            parameter where it is, on the CPU where it is on the meta device.
        offload_folder: not available.
        dtype: what floating-point weights become; None keeps the model's own.
        offload_state_dict: of no effect: weights are mapped from their files.
        strict: raise where names are missing or not known, instead of warning.
        others: arguments of Hugging Face Accelerate for what is not built here.

    Raises:
        CheckpointNotFound: there are no weights.
        CheckpointError: a file is damaged, holds code, or has weights of another shape.
        NotAvailableError: weights are to be left on the disk.

    Example:
        >>> import tempfile
        >>> from notebook_accel import Accelerator
        >>> folder, model = tempfile.mkdtemp(), nn.Linear(2, 1)
        >>> Accelerator(cpu=True).save_model(model, folder)
        >>> load_checkpoint_in_model(nn.Linear(2, 1), folder)
    """
    del offload_state_dict  # there is no state dict beside the model
    asked = sorted(name for name, value in others.items() if value not in (None, False) and name != "full_state_dict")
    on_disk = [name for name, place in (device_map or {}).items() if place == "disk"]
    if asked or on_disk or offload_folder is not None:
        what = f"load_checkpoint_in_model: {', '.join(asked) or 'weights that stay on the disk'} is not built here"
        raise NotAvailableError(what, "leave it out; weights are streamed to their devices file by file")
    kind = getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    loader = _Loader(model, device_map, kind)
    for path in files_of(Path(checkpoint)):
        loader.load(path)
    loader.finish(Path(checkpoint), strict=strict, warn=True)


def load_into(model: nn.Module, path: Path, *, strict: bool = True) -> None:
    """Load a file of weights into a model, in place.

    Args:
        model: any model.
        path: the file.
        strict: raise where names are missing or not known.

    Raises:
        CheckpointError: the file is damaged, holds code, or has weights of another shape.
    """
    loader = _Loader(model, None, None)
    loader.load(path)
    loader.finish(path, strict=strict, warn=False)


def files_of(checkpoint: Path) -> list[Path]:
    """Give the files that weights lie in.

    Args:
        checkpoint: one of them, an index of them, or their folder.

    Raises:
        CheckpointNotFound: there are none.
    """
    if checkpoint.is_dir():
        found = [checkpoint / name for name in (*_WHOLE, *_INDEXES) if (checkpoint / name).is_file()]
        other = sorted(checkpoint.glob("*.index.json"))
        found = found or other[:1]
        if not found:
            names = ", ".join((*_WHOLE, *_INDEXES))
            raise CheckpointNotFound(f"{checkpoint} holds no weights: none of {names}", "give the folder or the file")
        return files_of(found[0])
    if not checkpoint.is_file():
        raise CheckpointNotFound(f"there is no file or folder {checkpoint}", "give the folder or the file of weights")
    if checkpoint.suffix != ".json":
        return [checkpoint]
    try:
        files = sorted(set(json.loads(checkpoint.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint} is no index of weights: {error!r}", "give a folder or a file") from None
    missing = [name for name in files if not (checkpoint.parent / name).is_file()]
    if missing:
        what = f"{checkpoint} names {', '.join(missing[:3])}, which is not there"
        raise CheckpointNotFound(what, "save or download the weights again")
    return [checkpoint.parent / name for name in files]


class _Loader:
    """Brings the tensors of files to the names of one model."""

    def __init__(self, model: nn.Module, places: Mapping[str, Place] | None, dtype: torch.dtype | None) -> None:
        self._model = model
        self._places = places
        self._dtype = dtype
        self._own: dict[str, Any] = dict(model.state_dict(keep_vars=True))
        self._tied = tied_names(model)
        self._loaded: set[str] = set()
        self._unknown: list[str] = []
        meta = any(isinstance(one, Tensor) and one.is_meta for one in self._own.values())
        self._replaces = meta or places is not None or dtype is not None

    def load(self, path: Path) -> None:
        tensors: Mapping[str, Any] = TensorFile(path) if path.suffix == ".safetensors" else _state_in(path)
        wrapped = all(name.startswith(_PREFIX) for name in tensors) and not any(
            name.startswith(_PREFIX) for name in self._own
        )
        state: dict[str, Any] = {}
        for name in tensors:
            known = name.removeprefix(_PREFIX) if wrapped else name
            if known not in self._own:
                self._unknown.append(known)
                continue
            value = tensors[name]
            self._check_shape(path, known, value)
            for alias in next((group for group in self._tied if known in group), (known,)):
                state.setdefault(alias, self._placed(alias, value))
        self._loaded |= set(state)
        try:
            self._model.load_state_dict(state, strict=False, assign=self._replaces)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not fit the model: {error}", "build the model as it was saved"
            ) from error

    def _check_shape(self, path: Path, name: str, value: Any) -> None:
        own = self._own[name]
        if not isinstance(own, Tensor) or not isinstance(value, Tensor) or nn.parameter.is_lazy(own):
            return
        if own.shape != value.shape:
            what = f"{path}: {name} is of shape {tuple(value.shape)}, but {tuple(own.shape)} in the model"
            raise CheckpointError(what, "build the model as it was saved")

    def _placed(self, name: str, value: Any) -> Any:
        own = self._own[name]
        if not self._replaces or not isinstance(value, Tensor) or not isinstance(own, Tensor):
            return value
        device = own.device if self._places is None else _place_of(name, self._places)
        floats = self._dtype is not None and own.is_floating_point()
        kind = self._dtype if floats else own.dtype
        # A copy in any case: a tensor mapped from a file is only as good as the file.
        return value.to(torch.device("cpu") if device.type == "meta" else device, kind, copy=True)

    def finish(self, where: Path, *, strict: bool, warn: bool) -> None:
        if self._replaces:
            tie(self._model, self._tied)
        # A buffer may share its memory with what was loaded under another name.
        places = {_memory(self._own[name]) for name in self._loaded}
        missing = [name for name in self._own if name not in self._loaded and _memory(self._own[name]) not in places]
        problems = [
            f"{words} {_listed(names)}"
            for words, names in (("it lacks", missing), ("the model does not know", self._unknown))
            if names
        ]
        if problems and strict:
            what = f"{where} does not fit the model: {'; '.join(problems)}"
            raise CheckpointError(what, "build the model as it was saved, or load with strict=False")
        if problems and warn:
            warnings.warn(f"{where}: {'; '.join(problems)}", stacklevel=3)


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _memory(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.is_meta or not value.numel():
        return id(value)
    return value.device, value.data_ptr(), value.shape, value.stride()


def _state_in(path: Path) -> Mapping[str, Any]:
    state = read_objects(path)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not weights by name", "give a file of weights")
    return state


def _place_of(name: str, places: Mapping[str, Place]) -> torch.device:
    prefix = name
    while prefix not in places:
        if not prefix:
            what = f"device_map says nothing of {name!r}"
            raise ConfigError(what, 'name its submodule, or the whole model: device_map={"": "cpu"}')
        prefix = prefix.rpartition(".")[0]
    place = places[prefix]
    if isinstance(place, int):
        kind = torch.accelerator.current_accelerator()
        return torch.device(kind.type if kind is not None else "cuda", place)
    return torch.device(place)
