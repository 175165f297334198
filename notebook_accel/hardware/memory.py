"""What the system says about memory: the limit of this process, and how often it has ended processes for lack of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_NO_LIMIT_BYTES = 1 << 60  # what version 1 of control groups says where there is none


@dataclass(frozen=True)
class MemoryState:
    """What was seen at one moment; None for what the system does not tell.

    Attributes:
        ended_in_group: processes of this control group that were ended because its memory was used up.
        ended_on_machine: processes of the machine that were ended because memory was used up, anybody's.
        limit_bytes: what the control group may use.
        used_bytes: what the group with that limit uses and could not give back at once.
    """

    ended_in_group: int | None = None
    ended_on_machine: int | None = None
    limit_bytes: int | None = None
    used_bytes: int | None = None

    @staticmethod
    def read(root: Path = Path("/")) -> MemoryState:
        """Look now.

        Args:
            root: where the system's files lie.
        """
        ended, limit, used = None, None, None
        for folder, files in _groups(root):
            counted = _count(folder / files.events, "oom_kill")
            ended = counted if ended is None else ended
            bounded = _number(folder / files.maximum)
            if limit is None and bounded is not None and bounded < _NO_LIMIT_BYTES:
                limit, used = bounded, _number(folder / files.usage)
                if used is not None:  # files that were read are kept in memory for as long as there is room
                    used = max(0, used - (_count(folder / "memory.stat", files.cached) or 0))
        return MemoryState(ended, _count(root / "proc/vmstat", "oom_kill"), limit, used)

    def ran_out_since(self, before: MemoryState) -> str | None:
        """Say whose memory was used up since then, None if nothing says that any was."""
        if (self.ended_in_group or 0) > (before.ended_in_group or 0):
            return "the memory that this notebook may use"
        if (self.ended_on_machine or 0) > (before.ended_on_machine or 0):
            return "the machine's memory"
        return None


class _Files(NamedTuple):
    """Names of a control group's files, and of the line about files that were read."""

    events: str
    maximum: str
    usage: str
    cached: str


_VERSION_1 = _Files("memory.oom_control", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files("memory.events", "memory.max", "memory.current", "inactive_file")


def _groups(root: Path) -> list[tuple[Path, _Files]]:
    """Give the folders of this process's groups, in a container the container's."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers not in {"", "memory"}:
            continue
        base = root / "sys/fs/cgroup" / controllers
        files = _VERSION_1 if controllers else _VERSION_2
        found += [(base / path.lstrip("/"), files), (base, files)]
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""


def _count(file: Path, name: str) -> int | None:
    for line in _text(file).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None
