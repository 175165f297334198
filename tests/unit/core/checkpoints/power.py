"""Save, and look at each step at what the disk would hold if the power went: only what was synchronised, or less.

A script. What survives is modelled twice: names and contents survive when their folder and file were synchronised; or
names survive at once, as journals may have it, and contents when their file was synchronised.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from notebook_accel.world import World
from tests.unit.core.checkpoints.crashing import NEW, OLD, found, save

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


class Disk:
    """What of a folder has reached the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[int, dict[str, int]] = {}
        self.contents: dict[int, bytes] = {}
        self.kept: list[int] = []  # descriptors: a number is not given to another file while one is open
        for folder, folders, files in os.walk(root):
            for path in [folder, *(os.path.join(folder, name) for name in files + folders)]:
                self.synchronised(path)

    def synchronised(self, path: Any) -> None:
        """Note that a file or folder, by path or descriptor, is on the disk as it is."""
        number = os.stat(path).st_ino
        if number not in self.names and number not in self.contents:
            self.kept.append(os.dup(path) if isinstance(path, int) else os.open(path, os.O_RDONLY))
        where = f"/proc/self/fd/{path}" if isinstance(path, int) else str(path)
        if os.path.isdir(where):
            self.names[number] = {entry.name: entry.inode() for entry in os.scandir(where)}
        else:
            self.contents[number] = Path(where).read_bytes()

    def after_the_power_went(self, into: Path, *, names_survive: bool) -> None:
        """Write what is left."""
        actual = {os.stat(self.root).st_ino: self.root}
        for folder, folders, _ in os.walk(self.root):
            actual.update({os.stat(path).st_ino: path for path in (Path(folder, name) for name in folders)})

        def write(number: int, path: Path) -> None:
            here = actual.get(number)
            if number in self.names or here is not None:
                path.mkdir(exist_ok=True)
                names = self.names.get(number, {})
                if names_survive and here is not None:
                    names = {entry.name: entry.inode() for entry in os.scandir(here)}
                for name, inner in names.items():
                    write(inner, path / name)
            else:
                path.write_bytes(self.contents.get(number, b""))

        write(os.stat(self.root).st_ino, into)


def main(base: Path, named: str | None) -> list[tuple[str, bool, float]]:
    """Save once over an older checkpoint; give what the next run finds, for each step and model."""
    torch.set_num_threads(1)
    root = base / "project"
    save(root, OLD, None, World(), named)
    disk = Disk(root)
    outcomes: list[tuple[str, bool, float]] = []

    def look(step: str) -> None:
        for names_survive in (False, True):
            with tempfile.TemporaryDirectory(dir=base) as folder:
                disk.after_the_power_went(Path(folder), names_survive=names_survive)
                outcomes.append((step, names_survive, found(Path(folder), named)))

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            if watched.active:  # type: ignore[attr-defined]
                watched.active = False  # type: ignore[attr-defined]
                look(f"before {name}")
                value = real(*args, **kwargs)
                if name == "fsync":
                    disk.synchronised(args[0])
                look(f"after {name}")
                watched.active = True  # type: ignore[attr-defined]
                return value
            return real(*args, **kwargs)

        return call

    watched.active = False  # type: ignore[attr-defined]
    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    watched.active = True  # type: ignore[attr-defined]
    save(root, NEW, None, World(), named)
    watched.active = False  # type: ignore[attr-defined]
    look("at the end")
    return outcomes


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2] or None)))
