"""A rank's output: kept whole, and cut into lines for the screen."""

from __future__ import annotations

import codecs
import tempfile
import threading
import weakref
from string import Template

_IN_MEMORY_BYTES = 1 << 20


class RankOutput:
    """Everything one rank has printed; beyond 1 MiB it lies in an unnamed temporary file.

    Args:
        label: what stands before each of its lines on the screen.
    """

    def __init__(self, label: str = "") -> None:
        self._label = label
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with this object
        self._lock = threading.Lock()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._unfinished = ""
        weakref.finalize(self, self._spool.close)

    def add(self, data: bytes) -> str:
        """Keep ``data`` and give what of it can be shown now: whole lines, or a progress bar's last state."""
        with self._lock:
            self._spool.seek(0, 2)
            self._spool.write(data)
        text = self._unfinished + self._decoder.decode(data)
        end = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
        self._unfinished = text[end:]
        return self._labelled(text[:end])

    def finish(self) -> str:
        """Give what is left to show: a last line without a line end gets one."""
        text = self._unfinished + self._decoder.decode(b"", final=True)
        self._unfinished = ""
        return self._labelled(text + "\n") if text else ""

    def _labelled(self, text: str) -> str:
        if not self._label:
            return text
        lines = text.split("\n")  # not splitlines: a rank may print any of the characters that it cuts at
        last = lines.pop()
        return "".join(f"{self._label}{line}\n" for line in lines) + (self._label + last if last else "")

    def raw(self) -> bytes:
        """Give all bytes so far."""
        with self._lock:
            self._spool.seek(0)
            return self._spool.read()

    def text(self) -> str:
        """Give all text so far."""
        return self.raw().decode(errors="replace")

    def line_count(self) -> int:
        """Count the lines so far."""
        data = self.raw()
        return data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)


def label_of(rank: int, template: str | None) -> str:
    """Give what stands before a rank's lines."""
    if template is None:
        return "" if rank == 0 else f"[rank {rank}] "
    return Template(template).safe_substitute(rank=rank, local_rank=rank, role_name="default")
