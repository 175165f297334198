"""The checkpoints of one ``Accelerator``: where the next one goes, which one is the newest, and what hooks change."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from notebook_accel.core.checkpoints import contents, folders, restoring
from notebook_accel.core.checkpoints.agreement import ByCollective, ByStore
from notebook_accel.core.checkpoints.background import Background
from notebook_accel.core.checkpoints.saving import Destination, Save, attempted, checked
from notebook_accel.core.checkpoints.snapshot import Snapshots
from notebook_accel.core.kit import Kit
from notebook_accel.errors import AccelError, CheckpointError, CheckpointNotFound, ConfigError

SaveHook = Callable[[list[nn.Module], list[dict[str, Any]], str], None]
LoadHook = Callable[[list[nn.Module], str], None]
Folder = str | os.PathLike[str] | None


class Checkpoints:
    """Saves and loads the state of a run.

    Args:
        kit: what was prepared.
    """

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._project = kit.settings.project
        self._save_hooks: OrderedDict[int, SaveHook] = OrderedDict()
        self._load_hooks: OrderedDict[int, LoadHook] = OrderedDict()
        self._snapshots = Snapshots()
        self._running: Background | None = None
        self._forget: Callable[[], None] | None = None
        self._count = 0
        self._has_warned = False

    def add_save_hook(self, hook: SaveHook) -> RemovableHandle:
        """Call ``hook`` before each save, with the models, their weights and the folder."""
        handle = RemovableHandle(self._save_hooks)
        self._save_hooks[handle.id] = hook
        return handle

    def add_load_hook(self, hook: LoadHook) -> RemovableHandle:
        """Call ``hook`` before each load, with the models and the folder."""
        handle = RemovableHandle(self._load_hooks)
        self._load_hooks[handle.id] = hook
        return handle

    def finish(self) -> None:
        """Wait for a save that goes on.

        Raises:
            CheckpointError: it failed.
        """
        running, self._running = self._running, None
        if running is not None and self._forget is not None:
            self._forget()
            running.wait()

    def save(self, folder: Folder, *, safe: bool, block: bool) -> Path:
        """Save everything, and give the checkpoint's folder. Collective: all ranks must call this.

        Args:
            folder: None numbers it.
            safe: keep weights in the safetensors format.
            block: return when it is on the disk; otherwise when the state has been copied.

        Raises:
            CheckpointError: it could not be saved, or, without ``block``, the one before could not.
            ConfigError: there is no folder.
        """
        self.finish()
        where = self._begin(folder)
        self._project.iteration = where.number + 1
        world, agreement = self._kit.backend.world, ByCollective(self._kit.backend)
        mine = attempted(lambda: self._parts(where, safe=safe, block=block))
        save = Save(where=where, parts=mine.pop("value", ()), counts=contents.counts_of(self._kit), world=world)
        try:
            checked(agreement.gather(mine))
        except CheckpointError:
            save.abandon()
            raise
        if block:
            save.run(agreement)
        else:
            self._count += 1
            name = f"checkpoint/{world.restart_count}/{self._count}"
            self._running = Background(save, ByStore(self._kit.backend.store, world, name))
            self._forget = self._kit.runtime.at_end(self._running.wait)
        return where.target

    def _parts(self, where: Destination, *, safe: bool, block: bool) -> list[contents.Part]:
        models, weights = list(self._kit.prepared.models), contents.weights_of(self._kit)
        for hook in self._save_hooks.values():
            hook(models, weights, str(where.staging))
        world = self._kit.backend.world
        every = contents.dealt(contents.parts_of(self._kit, weights, safe=safe), where.writers(world))
        host = [part.on_host(self._kit.backend) for part in every if part.rank == world.rank]
        return host if block else self._snapshots.take(host)

    def _begin(self, folder: Folder) -> Destination:
        """Let the rank that leads choose and make the folders, and tell the others."""
        backend, project = self._kit.backend, self._project
        where: Destination | AccelError | None = None
        if backend.world.is_main or (project.save_on_each_node and backend.world.is_local_main):
            try:
                where = self._destination(folder)
                folders.begin(where.target)
            except AccelError as error:
                where = error
        every = backend.gather_object(where)
        failed = next((one for one in every if isinstance(one, AccelError)), None)
        if failed is not None:
            raise type(failed)(failed.what, failed.hint)
        world = backend.world
        mine: Destination = every[world.rank - world.local_rank if project.save_on_each_node else 0]
        return mine

    def _destination(self, folder: Folder) -> Destination:
        project = self._project
        number, limit = project.iteration, None
        if project.automatic_checkpoint_naming:
            parent = self.folder
            number = max([number, *(1 + other for other, _ in folders.numbered(parent))])
            target, limit = parent / f"checkpoint_{number}", project.total_limit
        elif folder is None:
            what = "save_state() has no folder to write to"
            hint = "give one, or ProjectConfiguration(project_dir=..., automatic_checkpoint_naming=True)"
            raise ConfigError(what, hint)
        else:
            target = Path(folder).resolve()
        return Destination(
            target=target,
            staging=folders.staging_of(target),
            staged=self._is_unreliable(target),
            number=number,
            limit=limit,
            on_each_node=project.save_on_each_node,
        )

    def _is_unreliable(self, target: Path) -> bool:
        kind = folders.unreliable(target)
        if kind is not None and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{target.parent} is on a {kind} file system: files are written on this machine, copied and read back;"
                " a checkpoint there counts when its manifest does, and to replace one may take two steps, so keep"
                " several, with automatic_checkpoint_naming",
                stacklevel=6,
            )
        return kind is not None

    @property
    def folder(self) -> Path:
        """Where numbered checkpoints lie.

        Raises:
            ConfigError: the project has no folder.
        """
        if self._project.project_dir is None:
            what = "there is no project_dir to number checkpoints in"
            raise ConfigError(what, "give one: Accelerator(project_dir=...), or name the checkpoint's folder")
        return Path(self._project.project_dir).resolve() / "checkpoints"

    def newest(self) -> Path | None:
        """Give the newest complete checkpoint, None where there is none. Collective: all ranks must call this."""
        path: Path | None
        path, wrong = self._kit.backend.broadcast_object(folders.newest(self.folder))
        restoring.warn_of_incomplete(wrong)
        return path

    def load(self, folder: Folder, *, strict: bool) -> Path:
        """Load everything, and give the checkpoint's folder. Collective: all ranks must call this.

        Args:
            folder: None takes the newest complete one.
            strict: let models hold no other tensors than the checkpoint.

        Raises:
            CheckpointNotFound: there is none.
            CheckpointError: it is damaged, or of something else.
        """
        self.finish()
        path = self._to_load(folder)
        manifest = restoring.check(self._kit, path)
        models = list(self._kit.prepared.models)
        for hook in self._load_hooks.values():
            hook(models, str(path))
        left = restoring.restore(self._kit, path, manifest, models, strict=strict)
        restoring.warn_of(path, left)
        if manifest is not None:
            self._project.iteration = max(self._project.iteration, manifest.iteration + 1)
        return path

    def _to_load(self, folder: Folder) -> Path:
        if folder is None:
            found = self.newest()
            if found is None:
                what = f"{self.folder} holds no complete checkpoint"
                raise CheckpointNotFound(what, "name one: load_state(folder); one without a manifest must be named")
            return found
        path = Path(folder).resolve()
        replaced = folders.replaced_of(path)
        if not path.exists() and folders.why_incomplete(replaced) is None:
            return replaced  # the power went while it was being replaced
        if not path.is_dir():
            raise CheckpointNotFound(f"there is no checkpoint {path}", "name the folder that save_state() gave")
        return path
