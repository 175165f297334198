"""What a checkpoint of a run holds: file by file, under the names that Hugging Face Accelerate gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.core.checkpoints.random_states import random_states
from notebook_accel.core.files.objects import write_objects
from notebook_accel.core.files.sink import FileRecord
from notebook_accel.core.files.tensors import write_tensors
from notebook_accel.core.kit import Kit
from notebook_accel.core.prepare import unwrapped_model
from notebook_accel.core.tree import leaves, map_tree
from notebook_accel.core.weights.sharing import distinct

OURS = "notebook_accel"  # the key of what Accelerate has no name for
SCALER = "scaler.pt"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of a checkpoint.

    Attributes:
        name: of the file.
        data: what it holds.
        as_tensors: it holds tensors by name, and nothing else.
        rank: which rank writes it; None where all ranks have the same, and any of them may.
        is_firsts: the ranks' may differ, and that of the first of those that write is the one that counts.
    """

    name: str
    data: Any
    as_tensors: bool = False
    rank: int | None = None
    is_firsts: bool = False

    @property
    def size_bytes(self) -> int:
        """About how long the file is."""
        return sum(leaf.nbytes for _, leaf in leaves(self.data) if isinstance(leaf, Tensor))

    def on_host(self, backend: Backend) -> Part:
        """Give the same part with tensors that can be written here."""
        return replace(self, data=map_tree(lambda leaf: on_host(backend, leaf), self.data))

    def write(self, folder: Path, *, staged: bool = False) -> FileRecord:
        """Write it into a folder."""
        path = folder / self.name
        if self.as_tensors:
            return write_tensors(path, distinct(self.data), staged=staged)
        return write_objects(path, self.data, staged=staged, checksums=False)  # the manifest has them


def on_host(backend: Backend, leaf: Any) -> Any:
    """Give a value in a form that can be written here."""
    return backend.host_copy(leaf) if isinstance(leaf, Tensor) else leaf


def model_file(number: int, *, safe: bool = True) -> str:
    """Give the name of the file of a model's weights.

    Example:
        >>> model_file(0), model_file(1, safe=False)
        ('model.safetensors', 'pytorch_model_1.bin')
    """
    return _numbered("model", "safetensors", number) if safe else _numbered("pytorch_model", "bin", number)


def optimizer_file(number: int) -> str:
    """Give the name of the file of an optimizer's state."""
    return _numbered("optimizer", "bin", number)


def scheduler_file(number: int) -> str:
    """Give the name of the file of a scheduler's state."""
    return _numbered("scheduler", "bin", number)


def custom_file(number: int) -> str:
    """Give the name of the file of a registered object's state."""
    return f"custom_checkpoint_{number}.pkl"


def rank_file(rank: int) -> str:
    """Give the name of the file of what only one rank has."""
    return f"random_states_{rank}.pkl"


def gradients_file(rank: int) -> str:
    """Give the name of the file of the gradients that a rank has not exchanged yet."""
    return f"gradients_{rank}.safetensors"


def _numbered(name: str, ending: str, number: int) -> str:
    return f"{name}_{number}.{ending}" if number else f"{name}.{ending}"


def counts_of(kit: Kit) -> dict[str, int]:
    """Give how many of each kind were prepared."""
    prepared = kit.prepared
    return {
        "models": len(prepared.models),
        "optimizers": len(prepared.optimizers),
        "schedulers": len(prepared.schedulers),
        "loaders": len(prepared.loaders),
        "custom": len(prepared.custom),
        "scalers": int(kit.precision.scaling.scaler is not None),
    }


def weights_of(kit: Kit) -> list[dict[str, Any]]:
    """Give the state dicts of all prepared models, under the names that they had before they were prepared."""
    return [unwrapped_model(model, kit).state_dict() for model in kit.prepared.models]


def parts_of(kit: Kit, weights: Sequence[Mapping[str, Any]], *, safe: bool = True) -> list[Part]:
    """Give everything that a run goes on from.

    Args:
        kit: what was prepared.
        weights: of the models.
        safe: keep weights in the safetensors format.
    """
    kit.precision.scaling.settle()
    prepared = kit.prepared
    found = [
        # Ranks have buffers of their own, such as running means, and go on with rank 0's.
        Part(name=model_file(number, safe=safe), data=dict(state), as_tensors=safe, is_firsts=True)
        for number, state in enumerate(weights)
    ]
    groups = (
        (optimizer_file, [one.optimizer for one in prepared.optimizers]),
        (scheduler_file, [one.scheduler for one in prepared.schedulers]),
        (custom_file, prepared.custom),
    )
    for name, things in groups:
        found += [Part(name=name(number), data=thing.state_dict()) for number, thing in enumerate(things)]
    scaler = kit.precision.scaling.scaler
    if scaler is not None:
        found.append(Part(name=SCALER, data=scaler.state_dict()))
    return [*found, *_own_parts(kit)]


def _own_parts(kit: Kit) -> list[Part]:
    rank = kit.backend.world.rank
    states = random_states(kit.backend, kit.window.number)
    states[OURS] = {
        "loaders": [loader.state_dict() for loader in kit.prepared.loaders],
        "window": kit.window.state_dict(),
        "gradients": kit.gradients.state_dict(),
        "buffers": own_buffers(kit),
    }
    own = [Part(name=rank_file(rank), data=states, rank=rank)]
    gradients = gradients_of(kit) if kit.window.done else {}
    if gradients:
        own.append(Part(name=gradients_file(rank), data=gradients, as_tensors=True, rank=rank))
    return own


def own_buffers(kit: Kit) -> list[dict[str, Tensor]]:
    """Give each model's buffers where every rank keeps its own; nothing where all go on with rank 0's."""
    if kit.backend.world.is_main or kit.wrapping.options.get("broadcast_buffers", True):
        return []
    return [dict(unwrapped_model(model, kit).named_buffers()) for model in kit.prepared.models]


def gradients_of(kit: Kit) -> dict[str, Tensor]:
    """Give the gradients that this rank holds, by the number of the model and the parameter's name."""
    return {
        f"{number}.{name}": parameter.grad
        for number, model in enumerate(kit.prepared.models)
        for name, parameter in unwrapped_model(model, kit).named_parameters()
        if parameter.grad is not None
    }


def dealt(parts: Iterable[Part], ranks: Sequence[int]) -> list[Part]:
    """Give the same parts, each with the rank that writes it, so that all have about as much to write.

    Args:
        parts: of one rank; what all ranks have is as large on each.
        ranks: which can write.
    """
    given = list(parts)
    load = dict.fromkeys(ranks, 0)
    writers: dict[str, int] = {}
    for part in sorted((part for part in given if part.rank is None), key=lambda part: (-part.size_bytes, part.name)):
        writer = ranks[0] if part.is_firsts else min(ranks, key=lambda rank: load[rank])
        load[writer] += part.size_bytes + 1
        writers[part.name] = writer
    return [replace(part, rank=writers.get(part.name, part.rank)) for part in given]
