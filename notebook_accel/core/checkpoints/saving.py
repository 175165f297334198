"""One save: all ranks write their parts, and when all are on the disk they become a checkpoint at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import notebook_accel
from notebook_accel.core.checkpoints import folders
from notebook_accel.core.checkpoints.agreement import Agreement
from notebook_accel.core.checkpoints.contents import Part
from notebook_accel.core.checkpoints.manifest import Manifest
from notebook_accel.core.files.sink import FileRecord, record_of, sync
from notebook_accel.errors import AccelError, CheckpointError
from notebook_accel.world import World


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a checkpoint comes to be.

    Attributes:
        target: its folder.
        staging: where it is written.
        staged: it is on a file system that promises little: files are checked after they were copied there.
        number: among those that are named automatically.
        limit: how many of those are kept; None for all, and where it has another name.
        on_each_node: each machine keeps a checkpoint of its own.
    """

    target: Path
    staging: Path
    staged: bool = False
    number: int = 0
    limit: int | None = None
    on_each_node: bool = False

    def leads(self, world: World) -> bool:
        """Whether a rank is the one that makes and renames folders."""
        return world.is_local_main if self.on_each_node else world.is_main

    def writers(self, world: World) -> list[int]:
        """Give the ranks that write into the same folder as a rank."""
        if not self.on_each_node:
            return list(range(world.world_size))
        first = world.rank - world.local_rank
        return list(range(first, first + world.local_world_size))


@dataclass(frozen=True, kw_only=True)
class Save:
    """What one rank does for a checkpoint once the state is known.

    Attributes:
        where: the checkpoint comes to be.
        parts: what this rank writes.
        counts: how many models, optimizers and so on there are.
        world: this process's place in the run.
    """

    where: Destination
    parts: Sequence[Part]
    counts: Mapping[str, int]
    world: World

    def run(self, agreement: Agreement) -> None:
        """Write, and make it a checkpoint. Collective: all ranks must call this.

        Args:
            agreement: how the ranks hear of each other.

        Raises:
            CheckpointError: a rank could not write its part; whatever was there before is as it was.
        """
        try:
            every = checked(agreement.gather(attempted(self._write)))
            leads = self.where.leads(self.world)
            checked(agreement.gather(attempted(lambda: self._commit(every)) if leads else {}))
        except CheckpointError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Remove what was written."""
        if self.where.leads(self.world):
            shutil.rmtree(self.where.staging, ignore_errors=True)

    def _write(self) -> dict[str, Any]:
        return {part.name: asdict(part.write(self.where.staging, staged=self.where.staged)) for part in self.parts}

    def _commit(self, every: Sequence[Mapping[str, Any]]) -> None:
        where = self.where
        files = {
            name: FileRecord(**record)
            for rank in where.writers(self.world)
            for name, record in every[rank]["value"].items()
        }
        gone = next((name for name in files if not (where.staging / name).is_file()), None)
        if gone is not None:
            what = f"{where.staging / gone} was written by another machine and is not seen here"
            raise CheckpointError(
                what, "let machines that share no disk use ProjectConfiguration(save_on_each_node=True)"
            )
        files.update(_others(where.staging, files))
        manifest = Manifest(
            world_size=self.world.world_size,
            counts=self.counts,
            files=files,
            iteration=where.number,
            versions={"notebook_accel": notebook_accel.__version__, "torch": str(torch.__version__)},
        )
        manifest.write(where.staging, staged=where.staged)
        folders.commit(where.staging, where.target)
        if where.limit is not None:
            folders.prune(where.target.parent, where.limit, where.target)


def attempted(work: Callable[[], Any]) -> dict[str, Any]:
    """Do something, and give its value or what went wrong, in words: the other ranks wait for this one in any case.

    Args:
        work: what is done.
    """
    try:
        return {"value": work()}
    except AccelError as error:
        return {"error": error.what, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - see above
        return {"error": f"{type(error).__name__}: {error}", "hint": "mend that and save again"}


def checked(every: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Give what the ranks said, if it went well everywhere.

    Args:
        every: of ``attempted``, by rank.

    Raises:
        CheckpointError: it did not; the message names the rank.
    """
    for rank, said in enumerate(every):
        if "error" in said:
            raise CheckpointError(f"rank {rank} could not save: {said['error']}", said["hint"])
    return every


def _others(staging: Path, known: Mapping[str, Any]) -> dict[str, FileRecord]:
    """Give the files that hooks have written, which belong to the checkpoint as well."""
    found = [path for path in sorted(staging.rglob("*")) if path.is_file()]
    others = {path.relative_to(staging).as_posix(): path for path in found}
    for name in known:
        others.pop(name, None)
    for path in others.values():
        sync(path)
    return {name: record_of(path) for name, path in others.items()}
