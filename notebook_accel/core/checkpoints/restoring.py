"""Putting a run into the state of a checkpoint, after looking at whether it is one, and of this run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from notebook_accel.core.checkpoints import contents
from notebook_accel.core.checkpoints.manifest import Manifest, altered_files, missing_files, read_manifest
from notebook_accel.core.checkpoints.random_states import set_random_states
from notebook_accel.core.files.objects import read_objects
from notebook_accel.core.files.tensors import TensorFile
from notebook_accel.core.kit import Kit
from notebook_accel.core.prepare import unwrapped_model
from notebook_accel.core.tree import map_tree
from notebook_accel.core.weights.loading import load_into
from notebook_accel.errors import AccelError, CheckpointError, ConfigError


def check(kit: Kit, folder: Path) -> Manifest | None:
    """Look at whether a checkpoint is whole, and give its manifest. Collective: all ranks must call this.

    The ranks share the reading.

    Args:
        kit: what was prepared.
        folder: of the checkpoint.

    Raises:
        CheckpointError: a file is missing, torn or altered; the message names it.
    """
    world = kit.backend.world
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(folder)
        wrong = [] if manifest is None else missing_files(folder, manifest)
        if manifest is not None and not wrong:
            names = sorted(manifest.files, key=lambda name: (-manifest.files[name].size_bytes, name))
            wrong = altered_files(folder, manifest, names[world.local_rank :: world.local_world_size])
    except AccelError as error:
        wrong = [error.what]
    every = kit.backend.gather_object(wrong)
    found = sorted({words for of_rank in every for words in of_rank})
    if found:
        what = f"{folder} is not what was saved: {'; '.join(found[:5])}"
        raise CheckpointError(what, "load another checkpoint: accelerator.load_state(folder)")
    return manifest


def restore(
    kit: Kit, folder: Path, manifest: Manifest | None, models: Sequence[nn.Module], *, strict: bool = True
) -> list[str]:
    """Put everything that was prepared into the state of a checkpoint, and give what could not be, in words.

    Args:
        kit: what was prepared.
        folder: of a checkpoint that was checked.
        manifest: its manifest; None where it has none.
        models: which models are loaded; hooks may have loaded the others.
        strict: let a model hold no other tensors than the checkpoint.

    Raises:
        CheckpointError: the checkpoint is of something else.
    """
    _check_counts(kit, folder, manifest)
    for number, model in enumerate(models):
        _load_model(folder, number, unwrapped_model(model, kit), strict=strict)
    groups = (
        (contents.optimizer_file, [one.optimizer for one in kit.prepared.optimizers]),
        (contents.scheduler_file, [one.scheduler for one in kit.prepared.schedulers]),
        (contents.custom_file, kit.prepared.custom),
    )
    for name, things in groups:
        for number, thing in enumerate(things):
            _load(folder / name(number), thing)
    scaler = kit.precision.scaling.scaler
    if scaler is not None and (folder / contents.SCALER).exists():
        _load(folder / contents.SCALER, scaler)
    return _restore_rank(kit, folder, manifest)


def _check_counts(kit: Kit, folder: Path, manifest: Manifest | None) -> None:
    if manifest is None:
        return
    for kind, here in contents.counts_of(kit).items():
        saved = manifest.counts.get(kind, 0)
        if kind not in ("loaders", "scalers") and here > saved:
            what = f"{folder} holds {saved} {kind}, and {here} are prepared or registered here"
            raise CheckpointError(what, "prepare and register what was there when it was saved, in the same order")


def _load_model(folder: Path, number: int, model: nn.Module, *, strict: bool) -> None:
    for safe in (True, False):
        path = folder / contents.model_file(number, safe=safe)
        if path.exists():
            load_into(model, path, strict=strict)
            return
    what = f"{folder} holds no weights of model {number}: {contents.model_file(number)} is not there"
    raise CheckpointError(what, "prepare the models that were there when it was saved, in the same order")


def _load(path: Path, thing: Any) -> None:
    if not path.exists():
        what = f"{path} is not there, and this run has a {type(thing).__name__} that it would be of"
        raise CheckpointError(what, "prepare and register what was there when it was saved, in the same order")
    # Copies: the file may be gone or changed when they are used.
    state = map_tree(lambda leaf: leaf.clone() if hasattr(leaf, "clone") else leaf, read_objects(path))
    try:
        thing.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        what = f"{path} does not fit the {type(thing).__name__} of this run: {type(error).__name__}: {error}"
        raise CheckpointError(what, "build it as it was when the checkpoint was saved") from error


def _restore_rank(kit: Kit, folder: Path, manifest: Manifest | None) -> list[str]:
    """Take over what each rank has of its own, and give in words what could not be."""
    world = kit.backend.world
    path = folder / contents.rank_file(world.rank)
    if manifest is not None and manifest.world_size != world.world_size:
        return _restore_other_size(kit, folder, manifest)
    if not path.exists():
        return [f"the generators and the place in the data of rank {world.rank}: {path.name} is not there"]
    states = read_objects(path)
    ours = states.get(contents.OURS)
    left = [] if ours is not None else ["the place in the data and in the accumulation window, which it does not hold"]
    if ours is not None:
        left += _restore_loaders(kit, ours["loaders"])
        kit.window.load_state_dict(ours["window"])
        kit.gradients.load_state_dict(ours["gradients"])
        for model, buffers in zip(kit.prepared.models, ours["buffers"], strict=False):
            for name, buffer in unwrapped_model(model, kit).named_buffers():
                buffer.copy_(buffers[name])
        _restore_gradients(kit, folder / contents.gradients_file(world.rank))
    # Last: building and loading may have drawn numbers.
    return [*left, *set_random_states(states, kit.backend)]


def _restore_other_size(kit: Kit, folder: Path, manifest: Manifest) -> list[str]:
    size = kit.backend.world.world_size
    states = read_objects(folder / contents.rank_file(0))[contents.OURS]
    for loader, state in zip(kit.prepared.loaders, states["loaders"], strict=False):
        loader.load_state_dict({**state, "batches": 0, "generators": None})
    begun = any(state["batches"] for state in states["loaders"])
    left = f"it was saved by {manifest.world_size} ranks and is loaded by {size}: generators go on as they are"
    return [
        left,
        *(["the epoch that had begun begins anew"] if begun else []),
        *(["gradients of the window that had begun are dropped"] if states["window"]["done"] else []),
    ]


def _restore_loaders(kit: Kit, states: Sequence[Mapping[str, Any]]) -> list[str]:
    loaders = kit.prepared.loaders
    for number, (loader, state) in enumerate(zip(loaders, states, strict=False)):
        try:
            loader.load_state_dict(state)
        except ConfigError as error:
            raise CheckpointError(f"loader {number}: {error.what}", error.hint) from error
    if len(loaders) == len(states):
        return []
    return [f"the place in the data of {abs(len(loaders) - len(states))} loaders: {len(states)} were saved"]


def _restore_gradients(kit: Kit, path: Path) -> None:
    if not path.exists():
        return
    gradients = TensorFile(path)
    for number, model in enumerate(kit.prepared.models):
        for name, parameter in unwrapped_model(model, kit).named_parameters():
            gradient = gradients.get(f"{number}.{name}")
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)


def warn_of(folder: Path, left_out: Sequence[str]) -> None:
    """Say what of a checkpoint could not be taken over.

    Args:
        folder: of the checkpoint.
        left_out: in words.
    """
    if left_out:
        warnings.warn(f"{folder} was loaded without: {'; '.join(left_out)}", stacklevel=4)


def warn_of_incomplete(wrong: Sequence[str]) -> None:
    """Say which folders are passed over because they are no complete checkpoints.

    Args:
        wrong: what is wrong with them, in words.
    """
    if wrong:
        warnings.warn(f"passed over, not complete: {'; '.join(wrong)}", stacklevel=5)
