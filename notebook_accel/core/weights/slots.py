"""The places in a model that weights are loaded into, each with where and as what it is to lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from notebook_accel.errors import ConfigError, NotAvailableError

Place = int | str | torch.device
Home = tuple[dict[str, Any], str]  # of a module: its parameters or buffers, and a name in it
_PLAIN_LOADERS = (nn.Module._load_from_state_dict, _NormBase._load_from_state_dict)  # noqa: SLF001 - to tell overrides


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where weights go, and what they become.

    Attributes:
        places: devices by the beginning of names; None leaves each weight where it is.
        dtype: of floating-point weights; None keeps the model's own.
        kept: parts of names whose floating-point weights are 32 bit, whatever ``dtype`` says.

    Raises:
        ConfigError: ``places`` or ``dtype`` is none.
        NotAvailableError: weights are to stay on the disk.
    """

    places: Mapping[str, Place] | None = None
    dtype: torch.dtype | None = None
    kept: Sequence[str] = ()
    _devices: dict[str, torch.device] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        places: object = self.places
        if places is not None and not isinstance(places, Mapping):
            what = f"device_map is {places!r}, not a device for each part of the model"
            raise ConfigError(what, 'give a dict, such as {"": "cuda:0"} for the whole model')
        for prefix, place in (self.places or {}).items():
            if place == "disk":
                what = f"device_map leaves {prefix!r} on the disk, which is not built here"
                raise NotAvailableError(what, "give a device; a file needs no memory beside the model while it is read")
            self._devices[prefix] = _device(prefix, place)

    @property
    def changes(self) -> bool:
        """Whether weights may become others than they are."""
        return self.places is not None or self.dtype is not None

    def device_of(self, name: str, own: Tensor) -> torch.device:
        """Give the device that a weight goes to.

        Args:
            name: of the weight.
            own: what the model has there.

        Raises:
            ConfigError: the map says nothing of it.
        """
        if self.places is None:
            return torch.device("cpu") if own.is_meta else own.device
        prefix = name
        while prefix not in self._devices:
            if not prefix:
                what = f"device_map says nothing of {name!r}"
                raise ConfigError(what, 'name its submodule, or the whole model: device_map={"": "cpu"}')
            prefix = prefix.rpartition(".")[0]
        return self._devices[prefix]

    def dtype_of(self, name: str, own: Tensor) -> torch.dtype:
        """Give what a weight becomes."""
        if self.dtype is None or not own.is_floating_point():
            return own.dtype
        return torch.float32 if any(f".{part}." in f".{name}." for part in self.kept) else self.dtype


def _device(prefix: str, place: Place) -> torch.device:
    try:
        return torch.device(place)  # a number is of the accelerator that is here
    except (RuntimeError, TypeError) as error:
        what = f"device_map puts {prefix!r} on {place!r}: {str(error).splitlines()[0]}"
        raise ConfigError(what, "give a device, such as 'cpu' or 'cuda:0', or the number of a GPU") from None


class Slot:
    """One tensor of a model, which may have several names.

    Args:
        own: what the model has.
        name: its first name.
        homes: what holds it.

    Attributes:
        own: the same; what takes its place once that is so.
        name: the same.
    """

    def __init__(self, own: Tensor, name: str, homes: Sequence[Home]) -> None:
        self.own = own
        self.name = name
        self._homes = homes

    def fill(self, device: torch.device, dtype: torch.dtype, read: Callable[[Tensor], None]) -> None:
        """Load the tensor.

        Args:
            device: where it is to lie.
            dtype: what it is to be.
            read: fills a tensor of its shape.
        """
        if self.own.device == device and self.own.dtype is dtype:
            read(self.own.detach())
            if not self.own.is_inference():  # what is read straight into memory goes unnoticed
                torch.autograd.graph.increment_version(self.own)
            return
        target = torch.empty(self.own.shape, dtype=dtype, device=device)
        read(target)
        gradient, self.own.grad = self.own.grad, None
        if torch._has_compatible_shallow_copy_type(self.own, target):  # noqa: SLF001 - as torch's own Module.to asks
            self.own.data = target  # the same object, so that optimizers and other names keep it
        else:
            self._replace(target)
        if gradient is not None:
            self.own.grad = gradient.to(device, dtype)

    def _replace(self, target: Tensor) -> None:
        if isinstance(self.own, nn.Parameter):
            target = nn.Parameter(target, requires_grad=self.own.requires_grad)
        target.__dict__.update(self.own.__dict__)
        for tensors, key in self._homes:
            tensors[key] = target
        self.own = target


@dataclass(frozen=True, kw_only=True)
class Slots:
    """All places of a model.

    Attributes:
        by_name: those that weights are read straight into; tied names have one.
        own_way: modules that load in a way of their own, with what they hold, by the beginning of their names.
        optional: names that files need not hold.
        shared: tensors that several modules or names hold, with what holds them.
    """

    by_name: Mapping[str, Slot]
    own_way: Mapping[str, nn.Module]
    optional: frozenset[str]
    shared: Sequence[tuple[Tensor, Sequence[Home]]]

    @classmethod
    def of(cls, model: nn.Module) -> Slots:
        """Find them.

        Args:
            model: any model.
        """
        homes: dict[int, list[Home]] = {}
        for module in model.modules():
            for tensors, key in _tensors_of(module):
                homes.setdefault(id(tensors[key]), []).append((tensors, key))
        by_name: dict[str, Slot] = {}
        own_way: dict[str, nn.Module] = {}
        optional: set[str] = set()
        slots: dict[int, Slot] = {}
        for prefix, module, is_plain in _walk("", model):
            if not is_plain:
                own_way[prefix] = module
                continue
            for tensors, key in _tensors_of(module):
                name, own = prefix + key, tensors[key]
                by_name[name] = slots.setdefault(id(own), Slot(own, name, homes[id(own)]))
            if isinstance(module, _NormBase):
                optional.add(f"{prefix}num_batches_tracked")  # very old versions of torch did not count
        shared = [(held[0][0][held[0][1]], held) for held in homes.values() if len(held) > 1]
        return cls(by_name=by_name, own_way=own_way, optional=frozenset(optional), shared=shared)

    def prefix_of(self, name: str) -> str | None:
        """Give the beginning of a name whose module loads in its own way, None where there is none."""
        return next((prefix for prefix in self.own_way if name.startswith(prefix)), None)

    def tie(self) -> None:
        """Let what was one tensor be one again, where a module has put another in its place."""
        for before, homes in self.shared:
            after = next((tensors[key] for tensors, key in homes if tensors[key] is not before), before)
            for tensors, key in homes:
                tensors[key] = after


def _walk(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Give a module and those in it, each with whether it is plain; nothing of what is in one that is not."""
    # Only the outermost module's load_state_dict would be called.
    is_plain = _is_plain(module) and (prefix != "" or type(module).load_state_dict is nn.Module.load_state_dict)
    yield prefix, module, is_plain
    if is_plain:
        for name, child in module._modules.items():  # noqa: SLF001 - one module under two names is meant twice
            if child is not None:
                yield from _walk(f"{prefix}{name}.", child)


def _is_plain(module: nn.Module) -> bool:
    """Tell whether a module loads as torch's own do: each tensor by its name, and nothing else."""
    kind = type(module)
    return (
        kind._load_from_state_dict in _PLAIN_LOADERS  # noqa: SLF001 - to tell overrides
        and kind._save_to_state_dict is nn.Module._save_to_state_dict  # noqa: SLF001 - the same
        and kind.state_dict is nn.Module.state_dict
        and kind.set_extra_state is nn.Module.set_extra_state
        and not any(getattr(module, hooks) for hooks in _HOOKS)
        and all(type(tensors[key].data) is Tensor for tensors, key in _tensors_of(module))
    )


_HOOKS = ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_state_dict_hooks", "_state_dict_pre_hooks")


def _tensors_of(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    unsaved = module._non_persistent_buffers_set  # noqa: SLF001 - torch tells it in no other way
    for tensors in (module._parameters, module._buffers):  # noqa: SLF001 - the same
        for key, tensor in tensors.items():
            if tensor is not None and key not in unsaved:
                yield tensors, key
