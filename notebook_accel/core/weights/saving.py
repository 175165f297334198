"""Saving the weights of a model on their own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.core.files.objects import write_objects
from notebook_accel.core.files.sink import sync, written
from notebook_accel.core.files.tensors import write_tensors
from notebook_accel.core.runtime import current
from notebook_accel.core.tree import map_tree
from notebook_accel.core.weights.sharding import Shards, bytes_of, spread
from notebook_accel.core.weights.sharing import aliases, by_memory, distinct
from notebook_accel.errors import AccelError, CheckpointError

_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")


@dataclass(frozen=True, kw_only=True)
class Format:
    """How weights are written.

    Attributes:
        largest_bytes: of a file, unless a single tensor is larger.
        safe: the safetensors format; otherwise torch's own.
        on_each_node: each machine keeps files of its own.
    """

    largest_bytes: int = bytes_of("10GB")
    safe: bool = True
    on_each_node: bool = False


def save_weights(state: Mapping[str, Any], folder: Path, backend: Backend, how: Format) -> None:
    """Write weights into a folder, each file under another name until all are on the disk.

    Collective where they take several files, which the ranks share: all ranks must call this then.

    Args:
        state: weights by name, the same on all ranks, on any device: they are brought to the host as they are written.
        folder: made where there is none; other files in it stay.
        backend: the connection to the other ranks.
        how: into what files.

    Raises:
        CheckpointError: a rank could not write its part; the files that were there are as they were.
    """
    world = backend.world
    rank, ranks = (world.local_rank, world.local_world_size) if how.on_each_node else (world.rank, world.world_size)
    shards = spread(distinct(state) if how.safe else state, how.largest_bytes, safe=how.safe)
    alone = len(shards.files) == 1
    if alone and rank:
        return
    mine = _Share(folder, shards, list(shards.files)[rank::ranks], leads=rank == 0)
    agree = _Agreement(backend, alone=alone)
    try:
        agree.on(lambda: mine.write(state, backend, safe=how.safe))
        agree.on(mine.check)
    except CheckpointError:
        mine.drop()
        raise
    agree.on(mine.reveal)
    agree.on(mine.finish)


class _Agreement:
    """Does one thing after the other on every rank, and fails on all of them where it fails on one."""

    def __init__(self, backend: Backend, *, alone: bool) -> None:
        self._backend = backend
        self._alone = alone

    def on(self, work: Callable[[], None]) -> None:
        failure = _failure_of(work)
        every = {self._backend.world.rank: failure} if self._alone else self._gathered(failure)
        for rank, found in every.items():
            if found is not None:
                raise CheckpointError(f"rank {rank} could not save: {found[0]}", found[1])

    def _gathered(self, failure: tuple[str, str] | None) -> dict[int, tuple[str, str] | None]:
        return dict(enumerate(self._backend.gather_object(failure)))


def _failure_of(work: Callable[[], None]) -> tuple[str, str] | None:
    """Do something, and give what went wrong and what to do: the other ranks wait for this one in any case."""
    try:
        work()
    except AccelError as error:
        return error.what, error.hint
    except OSError as error:
        return f"{error.filename}: {error.strerror or error}", "save to a folder that this process may write to"
    except Exception as error:  # noqa: BLE001 - see above
        return f"{type(error).__name__}: {error}", "mend that and save again"
    return None


class _Share:
    """What one rank does for a save.

    Args:
        folder: where files come to be.
        shards: all of them.
        names: of those that this rank writes.
        leads: it writes the index as well, and clears up.
    """

    def __init__(self, folder: Path, shards: Shards, names: list[str], *, leads: bool) -> None:
        self._folder = folder
        self._shards = shards
        self._names = names
        self._index = _index_of(shards) if leads and len(shards.files) > 1 else None
        self._leads = leads

    def write(self, state: Mapping[str, Any], backend: Backend, *, safe: bool) -> None:
        """Write this rank's files under their hidden names."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.drop()
        for name in self._names:
            part = {key: state[key] for key in self._shards.files[name]}
            if safe:
                write_tensors(_hidden(self._folder, name), part)
            else:
                write_objects(_hidden(self._folder, name), _on_host(part, backend))
        if self._index is not None:
            with written(_hidden(self._folder, self._index)) as sink:
                sink.write(self._shards.index().encode())

    def check(self) -> None:
        """Let the rank that leads see to it that every file is where the index will say.

        Raises:
            CheckpointError: one is not.
        """
        wanted = self._shards.files if self._leads else ()
        gone = [name for name in wanted if not _hidden(self._folder, name).is_file()]
        if gone:
            what = f"{self._folder / gone[0]} was written by another machine and is not seen here"
            hint = "let machines that share no disk use ProjectConfiguration(save_on_each_node=True)"
            raise CheckpointError(what, hint)

    def reveal(self) -> None:
        """Give this rank's files their names."""
        for name in self._names:
            _hidden(self._folder, name).replace(self._folder / name)
        sync(self._folder)

    def finish(self) -> None:
        """Give the index its name, and remove what an earlier save of other files left."""
        if not self._leads:
            return
        keep = set(self._shards.files)
        if self._index is not None:
            _hidden(self._folder, self._index).replace(self._folder / self._index)
            keep.add(self._index)
        for entry in [*self._folder.iterdir()]:
            left = _WEIGHTS.fullmatch(_shown(entry.name))
            if left and entry.name not in keep and entry.is_file():
                entry.unlink()
        sync(self._folder)

    def drop(self) -> None:
        """Remove what this rank has written."""
        for name in [*self._names, *([self._index] if self._index is not None else [])]:
            with suppress(OSError):  # the error that led here says more
                _hidden(self._folder, name).unlink(missing_ok=True)


def _index_of(shards: Shards) -> str:
    is_safe = next(iter(shards.files)).endswith(".safetensors")
    return ("model.safetensors" if is_safe else "pytorch_model.bin") + ".index.json"


def _on_host(part: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """Give what torch is to save: on the host, what is one tensor as one, and without memory that nobody names."""
    twice = aliases(part)
    shared = {name for group in by_memory(part) if len(group) > 1 for name in group}
    found: dict[str, Any] = {}
    for name, value in part.items():
        if name in twice:
            found[name] = found[twice[name]]
        elif isinstance(value, Tensor):
            host = backend.host_copy(value.detach()).cpu()
            lone = host.layout is torch.strided and name not in shared
            found[name] = host.clone() if lone and host.untyped_storage().nbytes() > host.nbytes else host
        else:
            found[name] = value
    return found


def save_object(obj: Any, file: Any, backend: Backend, *, safe: bool = False) -> None:
    """Write an object into a file, which is there when all of it is on the disk.

    Args:
        obj: what torch's ``save`` takes; with ``safe`` tensors by name.
        file: a path, or an open file, which is written to as it is.
        backend: brings tensors to the host.
        safe: write the safetensors format; otherwise torch's own.

    Raises:
        CheckpointError: there is no space, or the format has no place for a value.
    """
    if safe and not isinstance(obj, Mapping):
        what = f"save(safe_serialization=True) got a {type(obj).__name__}: such a file holds tensors by name"
        raise CheckpointError(what, "give a dict of tensors, or leave safe_serialization out")
    if not safe:
        obj = map_tree(lambda leaf: backend.host_copy(leaf) if isinstance(leaf, Tensor) else leaf, obj)
    if not isinstance(file, (str, os.PathLike)):
        if safe:
            what = f"save(safe_serialization=True) got {file!r} to write to, not the path of a file"
            raise CheckpointError(what, "give a path, or leave safe_serialization out")
        torch.save(obj, file)
        return
    path = Path(file)
    hidden = _hidden(path.parent, path.name)
    hidden.unlink(missing_ok=True)
    try:
        if safe:
            write_tensors(hidden, distinct(obj))
        else:
            with written(hidden) as sink:
                torch.save(obj, cast("IO[bytes]", sink))
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    hidden.replace(path)
    sync(path.parent)


def save(obj: Any, f: Any, save_on_each_node: bool = False, safe_serialization: bool = False) -> None:
    """Save an object on rank 0, or on the first rank of every machine; see ``Accelerator.save``.

    Args:
        obj: plain data and tensors; with ``safe_serialization`` tensors by name.
        f: the file; one that is there is replaced when the new one is complete. Or an open file.
        save_on_each_node: write on every machine, where machines share no disk.
        safe_serialization: write the safetensors format; otherwise torch's own.

    Raises:
        CheckpointError: it could not be saved.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "numbers.pt")
        >>> save({"one": torch.ones(1)}, file)
        >>> torch.load(file)
        {'one': tensor([1.])}
    """
    backend = current().backend
    if backend.world.is_local_main if save_on_each_node else backend.world.is_main:
        save_object(obj, f, backend, safe=safe_serialization)


def _hidden(folder: Path, name: str) -> Path:
    return folder / f".{name}.saving"


def _shown(name: str) -> str:
    """Give the name that a file is to have, whether it has it or is hidden still."""
    return name.removeprefix(".").removesuffix(".saving") if name.startswith(".") else name
