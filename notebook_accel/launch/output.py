"""A rank's output: kept whole, and cut where it can be shown."""

from __future__ import annotations

import codecs
import tempfile
import threading
import weakref
from string import Template

_IN_MEMORY_BYTES = 1 << 20


class RankOutput:
    """Everything one rank has printed; beyond 1 MiB it lies in an unnamed temporary file.

    Attributes:
        total_bytes: how much that is.
    """

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with this object
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unfinished: list[str] = []  # pieces of a line that has not ended
        self._lost_bytes = 0
        self.total_bytes = 0
        weakref.finalize(self, self._spool.close)

    def add(self, data: bytes) -> str:
        """Keep ``data`` and give what of it can be shown now: whole lines, or a progress bar's last state."""
        self._keep(data)
        self.total_bytes += len(data)
        text = self._decoder.decode(data)
        if self._unfinished and self._unfinished[-1].endswith("\r"):
            text = self._unfinished.pop() + text
        end = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
        if end == 0:
            self._unfinished.append(text)
            return ""
        shown = "".join([*self._unfinished, text[:end]])
        self._unfinished = [text[end:]] if text[end:] else []
        return shown

    def _keep(self, data: bytes) -> None:
        """Store it; a disk that is full must not end a run."""
        with self._lock:
            try:
                self._spool.seek(0, 2)
                self._spool.write(data)
            except OSError:
                self._lost_bytes += len(data)

    @property
    def is_waiting(self) -> bool:
        """Whether there is the beginning of a line that has not been shown."""
        return bool(self._unfinished)

    def take_unfinished(self) -> str:
        """Give the beginning of a line whose end has not come for a while."""
        text = "".join(self._unfinished)
        self._unfinished = []
        return text

    def finish(self) -> str:
        """Give what is left to show."""
        return self.take_unfinished() + self._decoder.decode(b"", final=True)

    def since(self, offset: int, limit_bytes: int) -> tuple[bytes, int]:
        """Give what was kept after the first ``offset`` bytes, of a great deal only the end; and where that ends."""
        with self._lock:
            end = self._spool.seek(0, 2)
            begin = max(offset, end - limit_bytes)
            self._spool.seek(begin)
            return self._spool.read(end - begin), end

    def raw(self) -> bytes:
        """Give all bytes so far."""
        with self._lock:
            self._spool.seek(0)
            return self._spool.read()

    def text(self) -> str:
        """Give all text so far."""
        lost = f"\n(notebook_accel: no room for {self._lost_bytes:,} more bytes)\n" if self._lost_bytes else ""
        return self.raw().decode(errors="replace") + lost

    def line_count(self) -> int:
        """Count the lines so far."""
        data = self.raw()
        return data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)


def label_of(rank: int, template: str | None) -> str:
    """Give what stands before a rank's lines."""
    if template is None:
        return "" if rank == 0 else f"[rank {rank}] "
    return Template(template).safe_substitute(rank=rank, local_rank=rank, role_name="default")
