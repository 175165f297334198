"""Saving the weights of a model on their own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.files.objects import write_objects
from notebook_accel.core.files.sink import sync, written
from notebook_accel.core.files.tensors import write_tensors
from notebook_accel.core.weights.sharding import Shards, bytes_of, spread
from notebook_accel.core.weights.sharing import aliases, distinct
from notebook_accel.errors import AccelError, CheckpointError

_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")


def save_weights(
    state: Mapping[str, Any], folder: Path, backend: Backend, *, max_shard_size: int | str = "10GB", safe: bool = True
) -> None:
    """Write weights into a folder, each file under another name until all are on the disk.

    Collective where they take several files, which the ranks share: all ranks must call this then.

    Args:
        state: weights by name, the same on all ranks.
        folder: made where there is none; other files in it stay.
        backend: the connection to the other ranks.
        max_shard_size: of a file: bytes, or a text such as "5GB".
        safe: write the safetensors format; otherwise torch's own.

    Raises:
        CheckpointError: a rank could not write its part; the files that were there are as they were.
        ConfigError: ``max_shard_size`` is no size.
    """
    rank, ranks = backend.world.rank, backend.world.world_size
    shards = spread(distinct(state) if safe else state, bytes_of(max_shard_size), safe=safe)
    alone = len(shards.files) == 1
    if alone and rank:
        return
    mine = list(shards.files)[rank::ranks]
    failure = _write(state, folder, shards, mine, safe=safe)
    every = [failure] if alone else backend.gather_object(failure)
    first = next((one for one in every if one is not None), None)
    if first is not None:
        _remove(folder, mine)
        raise CheckpointError(f"rank {every.index(first)} could not save: {first[0]}", first[1])
    if not alone:
        backend.barrier()  # nobody renames before all have heard that all is well
    for name in mine:
        _hidden(folder, name).replace(folder / name)
    sync(folder)
    if not alone:
        backend.barrier()
    if rank == 0:
        _finish(folder, shards)
    if not alone:
        backend.barrier()


def _write(
    state: Mapping[str, Any], folder: Path, shards: Shards, names: list[str], *, safe: bool
) -> tuple[str, str] | None:
    """Write files, and give what went wrong and what to do."""
    twice = aliases(state) if safe else {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder, names)
        for name in names:
            part = {key: state[key] for key in shards.files[name]}
            if safe:
                kept = {alias: key for alias, key in twice.items() if key in part}
                write_tensors(_hidden(folder, name), part, metadata=kept)
            else:
                write_objects(_hidden(folder, name), part)
    except AccelError as error:
        return error.what, error.hint
    except OSError as error:
        return f"{folder}: {error.strerror or error}", "save to a folder that this process may write to"
    return None


def _finish(folder: Path, shards: Shards) -> None:
    """Write the index, and remove what an earlier save of other files left."""
    keep = set(shards.files)
    if len(shards.files) > 1:
        stem = next(iter(shards.files))
        index = ("model.safetensors" if stem.endswith(".safetensors") else "pytorch_model.bin") + ".index.json"
        _remove(folder, [index])
        with written(_hidden(folder, index)) as sink:
            sink.write(shards.index().encode())
        _hidden(folder, index).replace(folder / index)
        keep.add(index)
    for entry in [*folder.iterdir()]:
        if entry.name not in keep and _WEIGHTS.fullmatch(entry.name):
            entry.unlink()
    sync(folder)


def save_object(obj: Any, file: Any, *, safe: bool = False) -> None:
    """Write an object into a file, which is there when all of it is on the disk.

    Args:
        obj: what torch's ``save`` takes; with ``safe`` tensors by name.
        file: a path, or an open file, which is written to as it is.
        safe: write the safetensors format; otherwise torch's own.

    Raises:
        CheckpointError: there is no space, or the format has no place for a value.
    """
    if not isinstance(file, (str, os.PathLike)):
        torch.save(obj, file)
        return
    path = Path(file)
    hidden = _hidden(path.parent, path.name)
    hidden.unlink(missing_ok=True)
    if safe:
        write_tensors(hidden, distinct(obj))
    else:
        with written(hidden) as sink:
            torch.save(obj, cast("IO[bytes]", sink))
    hidden.replace(path)
    sync(path.parent)


def _hidden(folder: Path, name: str) -> Path:
    return folder / f".{name}.saving"


def _remove(folder: Path, names: list[str]) -> None:
    for name in names:
        _hidden(folder, name).unlink(missing_ok=True)
