"""Folders of checkpoints: how one comes to be at once, which are complete, and which are too many.

A checkpoint is written into a hidden folder beside its place and renamed when its manifest is on the disk. Where there
was one before, that one is renamed away first; if the power goes in between, it is found under its hidden name.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from notebook_accel.core.checkpoints.manifest import MANIFEST, missing_files, read_manifest
from notebook_accel.core.files.sink import sync
from notebook_accel.errors import CheckpointError

_NUMBERED = re.compile(r"checkpoint_(\d+)")
# What a checkpoint without a manifest is made of, as Hugging Face Accelerate writes it.
_PARTS = re.compile(
    r"(model|pytorch_model)(_\d+)?\.(safetensors|bin)|(optimizer|scheduler|sampler|dl_state_dict)(_\d+)?\.bin"
    r"|scaler\.pt|random_states_\d+\.pkl|custom_checkpoint_\d+\.pkl|gradients_\d+\.safetensors"
)
# File systems whose renaming is not known to be atomic: those on the network and in user space, such as Google Drive.
_ELSEWHERE = ("fuse", "9p", "cifs", "smb", "drvfs", "vboxsf")


def staging_of(target: Path) -> Path:
    """Give the folder in which a checkpoint is written before it is one."""
    return target.with_name(f".{target.name}.saving")


def replaced_of(target: Path) -> Path:
    """Give where the checkpoint that a new one replaces lies until the new one is there."""
    return target.with_name(f".{target.name}.replaced")


def begin(target: Path) -> Path:
    """Give an empty folder for what will be the checkpoint ``target``; what a save left that did not end is removed.

    Args:
        target: where the checkpoint will be.

    Raises:
        CheckpointError: it cannot be made.
    """
    staging, replaced = staging_of(target), replaced_of(target)
    try:
        if replaced.exists():
            if target.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(target)
        if staging.exists():
            shutil.rmtree(staging)
        missing = [folder for folder in staging.parents if not folder.exists()]
        staging.mkdir(parents=True)
        for folder in missing:
            sync(folder.parent)
    except OSError as error:
        what = f"{staging} could not be made: {error.strerror or error}"
        raise CheckpointError(what, "save to a folder that this process may write to") from error
    return staging


def commit(staging: Path, target: Path) -> None:
    """Make what lies in ``staging`` the checkpoint ``target``, at once; other files in ``target`` stay.

    Args:
        staging: of ``begin``, complete and on the disk.
        target: where the checkpoint will be.

    Raises:
        CheckpointError: the folder cannot be renamed.
    """
    replaced = replaced_of(target)
    try:
        if target.exists():
            _take_others_along(target, staging)
        for folder, _, _ in os.walk(staging):
            sync(Path(folder))
        if target.exists():
            target.rename(replaced)
        staging.rename(target)
        sync(target.parent)
        if replaced.exists():
            shutil.rmtree(replaced)
    except OSError as error:
        what = f"{staging} could not be renamed to {target}: {error.strerror or error}"
        raise CheckpointError(what, "save to a folder of its own, below the one that is mounted") from error


def _take_others_along(target: Path, staging: Path) -> None:
    """Let files of ``target`` that are no part of a checkpoint be in ``staging`` as well: logs, what the user put."""
    for entry in target.iterdir():
        place = staging / entry.name
        if _is_part(target, entry) or place.exists():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, place, copy_function=_linked, symlinks=True)
        else:
            _linked(str(entry), str(place))


def _is_part(target: Path, entry: Path) -> bool:
    try:
        manifest = read_manifest(target)
    except CheckpointError:
        manifest = None
    known = {name.split("/")[0] for name in manifest.files} if manifest is not None else set()
    return entry.name in known or entry.name == MANIFEST or _PARTS.fullmatch(entry.name) is not None


def _linked(source: str, target: str) -> str:
    """Let one file have two names, so that whoever writes to it goes on doing so; a copy where that is not possible."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
    return target


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """Give the folders that are named as checkpoints, complete or not, by number.

    Args:
        folder: may not exist.
    """
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    matches = [(_NUMBERED.fullmatch(entry.name), entry) for entry in entries]
    return sorted((int(match[1]), entry) for match, entry in matches if match is not None and entry.is_dir())


def why_incomplete(folder: Path) -> str | None:
    """Give why a folder is no complete checkpoint, None where it is one. Files are not read.

    Args:
        folder: of a checkpoint.
    """
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return error.what
    if manifest is None:
        return f"{folder} has no {MANIFEST}"
    return next(iter(missing_files(folder, manifest)), None)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Give the complete checkpoint with the highest number, None where there is none, and what is wrong with others.

    Args:
        folder: of numbered checkpoints.
    """
    wrong: list[str] = []
    for _, path in reversed(numbered(folder)):
        reason = why_incomplete(path)
        if reason is None:
            return path, wrong
        wrong.append(reason)
    return None, wrong


def prune(folder: Path, limit: int, keep: Path) -> None:
    """Remove the oldest numbered checkpoints, and what saves left that did not end.

    Args:
        folder: of numbered checkpoints.
        limit: how many stay, 1 or more.
        keep: stays in any case.
    """
    for _, path in [(number, path) for number, path in numbered(folder) if path != keep][: -(limit - 1) or None]:
        removed = path.with_name(f".{path.name}.removed")
        path.rename(removed)  # a folder half removed must not look like a checkpoint
    for pattern in (".checkpoint_*.removed", ".checkpoint_*.saving"):
        for left in folder.glob(pattern):
            shutil.rmtree(left, ignore_errors=True)


def unreliable(folder: Path, mounts: str | None = None) -> str | None:
    """Give the kind of file system that a folder is on if its renaming is not known to be atomic, None if it is.

    Args:
        folder: may not exist yet.
        mounts: what the system says of what is mounted where; None asks it.

    Example:
        >>> unreliable(Path("/content/drive/x"), "9 1 0:9 / /content/drive rw - fuse.drive drive rw")
        'fuse.drive'
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return None
    place = str(folder.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape")
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind if kind.startswith(_ELSEWHERE) else None
