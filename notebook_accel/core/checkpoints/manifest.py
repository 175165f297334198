"""The manifest of a checkpoint: it is written last, and a folder without one is no checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from notebook_accel.core.files.sink import FileRecord, record_of, written
from notebook_accel.errors import CheckpointError

MANIFEST = "manifest.json"
_FORMAT = 1
_READERS = 4


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        world_size: number of ranks that saved it.
        counts: how many models, optimizers and so on it is of, by kind.
        files: every file, by its path below the folder.
        iteration: its number among those named automatically.
        versions: of torch and of this package.
    """

    world_size: int
    counts: Mapping[str, int]
    files: Mapping[str, FileRecord]
    iteration: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path, *, staged: bool = False) -> None:
        """Write it, which makes ``folder`` a checkpoint.

        Args:
            folder: whose files are on the disk.
            staged: as in ``written``.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, sort_keys=True)
        with written(folder / MANIFEST, staged=staged) as sink:
            sink.write(text.encode())


def read_manifest(folder: Path) -> Manifest | None:
    """Give the manifest of a folder, None where there is none.

    Args:
        folder: of a checkpoint.

    Raises:
        CheckpointError: there is one, which cannot be read.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = json.loads(text)
        if data.pop("format") > _FORMAT:
            raise CheckpointError(f"{path} is of a later version of notebook_accel", "load it with that version")
        files = {name: FileRecord(**record) for name, record in data.pop("files").items()}
        return Manifest(files=files, **data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path} is damaged: {type(error).__name__}: {error}"
        raise CheckpointError(what, "load the checkpoint before it") from None


def missing_files(folder: Path, manifest: Manifest) -> list[str]:
    """Give what is missing or has another size, in words.

    Args:
        folder: of the checkpoint.
        manifest: its manifest.
    """
    found = []
    for name, record in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            found.append(f"{folder / name} is missing")
            continue
        if size != record.size_bytes:
            found.append(f"{folder / name} has {size:,} bytes instead of {record.size_bytes:,}")
    return found


def altered_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> list[str]:
    """Read files and give those that hold something else than what was saved, in words.

    Args:
        folder: of the checkpoint.
        manifest: its manifest.
        names: which files are read.
    """

    def look(name: str) -> str | None:
        same = record_of(folder / name) == manifest.files[name]
        return None if same else f"{folder / name} holds something else than what was saved (checksum)"

    wanted = sorted(names, key=lambda name: -manifest.files[name].size_bytes)
    with ThreadPoolExecutor(_READERS) as readers:  # checksums let the other threads run
        return [words for words in readers.map(look, wanted) if words is not None]


def counts_differ(manifest: Manifest, here: Mapping[str, int]) -> dict[str, tuple[Any, int]]:
    """Give what a checkpoint holds more or fewer of than there are here: by kind, how many were saved and are here."""
    kinds = sorted({*manifest.counts, *here})
    return {
        kind: (manifest.counts.get(kind, 0), here.get(kind, 0))
        for kind in kinds
        if manifest.counts.get(kind, 0) != here.get(kind, 0)
    }
