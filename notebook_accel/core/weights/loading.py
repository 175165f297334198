"""Loading weights into a model: from one file or many, straight to where they belong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from notebook_accel.core.operations import extract_model_from_parallel
from notebook_accel.core.weights.finding import Stored, opened
from notebook_accel.core.weights.sharing import aliases, is_within, memory_key
from notebook_accel.core.weights.slots import Layout, Place, Slot, Slots
from notebook_accel.errors import CheckpointError, ConfigError, NotAvailableError

_PREFIX = "module."  # what DistributedDataParallel puts before each name


def load_checkpoint_in_model(  # noqa: PLR0913 - the names that users of Hugging Face Accelerate know, in their order
    model: nn.Module,
    checkpoint: str | os.PathLike[str],
    device_map: Mapping[str, Place] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
    dtype: str | torch.dtype | None = None,
    offload_state_dict: bool = False,
    offload_buffers: bool = False,
    *,
    keep_in_fp32_modules: Sequence[str] | None = None,
    offload_8bit_bnb: bool = False,
    strict: bool = False,
    full_state_dict: bool = True,
    broadcast_from_rank0: bool = False,
) -> None:
    """Load weights into a model, one tensor after the other, so that a model needs memory once.

    Names, shapes and devices are looked at before the model is changed; only modules with a way of their own to load,
    such as hooks, tell afterwards. A folder's ``model.safetensors`` comes before its ``pytorch_model.bin``, and a whole
    file before an index.

    Args:
        model: any model, prepared or not, also on the meta device.
        checkpoint: a file of weights, an index of several, or a folder that holds either.
        device_map: where submodules go, by the beginning of their names; "" is the whole model. None leaves every
            parameter where it is, on the CPU where it is on the meta device.
        offload_folder: not available.
        dtype: what floating-point weights become, with or without ``device_map``; None keeps the model's own.
        offload_state_dict: of no effect: there is no state dict beside the model.
        offload_buffers: of no effect without ``offload_folder``.
        keep_in_fp32_modules: names of submodules that are 32 bit, whatever ``dtype`` says.
        offload_8bit_bnb: not available.
        strict: raise where names are missing or not known, instead of warning.
        full_state_dict: False is not available: files hold whole tensors.
        broadcast_from_rank0: not available: every rank reads.

    Raises:
        CheckpointNotFound: there are no weights.
        CheckpointError: a file is damaged, holds code, or has weights of another shape.
        ConfigError: ``device_map`` or ``dtype`` is wrong.
        NotAvailableError: weights are to be left on the disk, or read by rank 0 alone.

    Example:
        >>> import tempfile
        >>> from notebook_accel import Accelerator
        >>> folder, model = tempfile.mkdtemp(), nn.Linear(2, 1)
        >>> Accelerator(cpu=True).save_model(model, folder)
        >>> load_checkpoint_in_model(nn.Linear(2, 1), folder)
    """
    del offload_state_dict, offload_buffers
    asked = {
        "offload_folder": offload_folder is not None,
        "offload_8bit_bnb": offload_8bit_bnb,
        "full_state_dict=False": not full_state_dict,
        "broadcast_from_rank0": broadcast_from_rank0,
    }
    refused = [name for name, is_asked in asked.items() if is_asked]
    if refused:
        what = f"load_checkpoint_in_model: {', '.join(refused)} is not built here"
        raise NotAvailableError(what, "leave it out; weights are read tensor by tensor, straight to their devices")
    layout = Layout(places=device_map, dtype=_dtype(dtype), kept=tuple(keep_in_fp32_modules or ()))
    problems = _Load(model, layout, opened(Path(checkpoint)), Path(checkpoint)).run(strict=strict)
    if problems:
        warnings.warn(f"{checkpoint}: {problems}", stacklevel=2)


def load_into(model: nn.Module, path: Path, *, strict: bool = True) -> None:
    """Load a file of weights into a model, in place.

    Args:
        model: any model.
        path: the file.
        strict: raise where names are missing or not known.

    Raises:
        CheckpointError: the file is damaged, holds code, or has weights of another shape.
    """
    _Load(model, Layout(), opened(path), path).run(strict=strict)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is not None and isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    if dtype is not None:
        raise ConfigError(f"dtype is {dtype!r}, which is no floating-point type", 'give one, such as "bfloat16"')
    return None


class _Load:
    """Brings the tensors of files to the names of one model.

    Args:
        model: any model.
        layout: where they go.
        files: all of the weights.
        where: what to call them.
    """

    def __init__(self, model: nn.Module, layout: Layout, files: Sequence[Stored], where: Path) -> None:
        self._model = extract_model_from_parallel(model, keep_torch_compile=False)
        self._layout = layout
        self._where = where
        self._slots = Slots.of(self._model)
        self._own: dict[str, Tensor] = {  # of modules that load in their own way
            name: value
            for prefix, module in self._slots.own_way.items()
            for name, value in module.state_dict(prefix=prefix, keep_vars=True).items()
            if isinstance(value, Tensor)
        }
        self._loaded: set[int] = set()
        names = [name for file in files for name in file.keys()]  # noqa: SIM118 - a file is no mapping
        wrapped = bool(names) and all(name.startswith(_PREFIX) for name in names) and not hasattr(self._model, "module")
        self._cut = len(_PREFIX) if wrapped else 0
        self._files = [(file, {name[self._cut :]: name for name in file.keys()}) for file in files]  # noqa: SIM118

    def run(self, *, strict: bool) -> str:
        """Load everything, and give in words what did not fit.

        Raises:
            CheckpointError: shapes differ; or names do, and ``strict``.
        """
        names = {name: None for _, held in self._files for name in held}  # in their order
        unknown = [name for name in names if name not in self._slots.by_name and self._slots.prefix_of(name) is None]
        absent = self._absent(names)
        self._check_shapes()
        devices = {name: self._layout.device_of(name, slot.own) for name, slot in self._slots.by_name.items()}
        self._check_tied(devices)
        self._refuse(absent, unknown, strict=strict)
        with torch.no_grad():
            for file, held in self._files:
                for name in held:
                    slot = self._slots.by_name.get(name)
                    if slot is not None:
                        self._loaded.add(id(slot.own))
                        self._fill(slot, file, held[name], devices[name])
            for prefix, module in self._slots.own_way.items():
                lacking, strange = self._load_its_way(prefix, module)
                absent, unknown = absent + lacking, unknown + strange
            self._slots.tie()
        absent = [name for name in absent if id(self._own.get(name)) not in self._loaded]
        self._refuse(absent, unknown, strict=strict)
        return _words(absent, unknown)

    def _absent(self, names: Container[str]) -> list[str]:
        """Give the names that no file has, under no other name, and as no part of another tensor."""
        own = {name: slot.own for name, slot in self._slots.by_name.items()}
        given = {id(tensor): tensor for name, tensor in own.items() if name in names}
        later = {id(tensor) for tensor in self._own.values()}  # which may come under any name
        absent = [name for name in own if id(own[name]) not in given and id(own[name]) not in later]
        wholes: dict[Any, list[Tensor]] = {}
        for tensor in () if self._layout.changes else given.values():  # what changes no longer shares memory
            wholes.setdefault(memory_key(tensor), []).append(tensor)
        wholes.pop(None, None)  # has no memory
        parts = {
            name
            for name in absent
            if any(is_within(own[name], whole) for whole in wholes.get(memory_key(own[name]), ()))
        }
        return [name for name in absent if name not in parts and name not in self._slots.optional]

    def _check_shapes(self) -> None:
        wrong = []
        for file, held in self._files:
            for name, stored in held.items():
                slot, shape = self._slots.by_name.get(name), file.shape_of(stored)
                if slot is not None and shape != slot.own.shape:
                    found = "no tensor, but of shape" if shape is None else f"of shape {tuple(shape)}, but"
                    wrong.append(f"{name} is {found} {tuple(slot.own.shape)} in the model ({file.path.name})")
        if wrong:
            what = f"{self._where} does not fit the model: {'; '.join(wrong)}"
            raise CheckpointError(what, "build the model as it was saved")

    def _check_tied(self, devices: Mapping[str, torch.device]) -> None:
        for name, slot in self._slots.by_name.items():
            if devices[name] != devices[slot.name]:
                what = f"device_map puts {slot.name} on {devices[slot.name]} and {name}, the same tensor, "
                raise ConfigError(f"{what}on {devices[name]}", "put what is tied on one device")

    def _refuse(self, absent: Sequence[str], unknown: Sequence[str], *, strict: bool) -> None:
        if strict and (absent or unknown):
            what = f"{self._where} does not fit the model: {_words(absent, unknown)}"
            raise CheckpointError(what, "build the model as it was saved, or load with strict=False")

    def _fill(self, slot: Slot, file: Stored, stored: str, device: torch.device) -> None:
        dtype = self._layout.dtype_of(slot.name, slot.own)
        slot.fill(device, dtype, lambda target: file.read_into(stored, target))

    def _load_its_way(self, prefix: str, module: nn.Module) -> tuple[list[str], list[str]]:
        """Let a module load as it does itself, and give what it lacks and what it does not know."""
        own = {name: value for name, value in self._own.items() if name.startswith(prefix)}
        replaces = self._layout.changes or any(one.is_meta for one in own.values())
        state = {}
        for file, held in self._files:
            for name, stored in held.items():
                if self._slots.prefix_of(name) == prefix:
                    state[name] = self._placed(name, file[stored], own.get(name)) if replaces else file[stored]
        for alias, name in aliases(own).items():  # a file holds one of them
            both = [state[one] for one in (alias, name) if one in state]
            state.update(dict.fromkeys((alias, name) if both else (), both[0] if both else None))
        try:
            cut = {name[len(prefix) :]: value for name, value in state.items()}
            found = module.load_state_dict(cut, strict=False, assign=replaces)
        except RuntimeError as error:
            what = f"{self._where} does not fit the model: {error}"
            raise CheckpointError(what, "build the model as it was saved") from error
        lacking = [prefix + key for key in found.missing_keys]
        self._loaded |= {id(own[name]) for name in own.keys() - lacking}
        return lacking, [prefix + key for key in found.unexpected_keys]

    def _placed(self, name: str, value: Any, own: Tensor | None) -> Any:
        if not isinstance(value, Tensor):
            return value
        known = value if own is None else own
        # A copy in any case: a tensor mapped from a file is only as good as the file.
        return value.to(self._layout.device_of(name, known), self._layout.dtype_of(name, known), copy=True)


def _words(absent: Sequence[str], unknown: Sequence[str]) -> str:
    parts = [("it lacks", absent), ("the model does not know", unknown)]
    return "; ".join(f"{words} {', '.join(names)}" for words, names in parts if names)
