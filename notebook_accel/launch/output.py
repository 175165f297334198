"""A rank's output: kept whole, and cut into lines for the screen."""

from __future__ import annotations

import codecs
import tempfile
import threading
import weakref
from collections import deque
from string import Template

_IN_MEMORY_BYTES = 1 << 20
_WAITING_CHARACTERS = 8 << 20


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
        self._unfinished: list[str] = []  # pieces of a line that has not ended
        self._lost_bytes = 0
        weakref.finalize(self, self._spool.close)

    def add(self, data: bytes) -> str:
        """Keep ``data`` and give what of it can be shown now: whole lines, or a progress bar's last state."""
        self._keep(data)
        text = self._decoder.decode(data)
        if self._unfinished and self._unfinished[-1].endswith("\r"):
            text = self._unfinished.pop() + text
        end = max(text.rfind("\n"), text.rfind("\r", 0, len(text) - 1)) + 1
        if end == 0:
            self._unfinished.append(text)
            return ""
        shown = "".join([*self._unfinished, text[:end]])
        self._unfinished = [text[end:]] if text[end:] else []
        return self._labelled(shown)

    def _keep(self, data: bytes) -> None:
        """Store it; a disk that is full must not end a run."""
        with self._lock:
            try:
                self._spool.seek(0, 2)
                self._spool.write(data)
            except OSError:
                self._lost_bytes += len(data)

    def finish(self) -> str:
        """Give what is left to show: a last line without a line end gets one."""
        text = "".join(self._unfinished) + self._decoder.decode(b"", final=True)
        self._unfinished = []
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


class Screen:
    """Text on its way to the notebook: put by the threads that read from ranks, taken by the cell that shows it.

    A run in the background may have nobody who takes it: of what waits, only the latest is kept.

    Args:
        limit_characters: how much may wait.

    Example:
        >>> screen = Screen()
        >>> screen.put("hello")
        >>> screen.take()
        'hello'
    """

    def __init__(self, limit_characters: int = _WAITING_CHARACTERS) -> None:
        self._limit = limit_characters
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._size = 0
        self._folded = 0
        self._nudged = False

    def put(self, text: str) -> None:
        """Add text."""
        with self._changed:
            self._waiting.append(text)
            self._size += len(text)
            while self._size > self._limit and len(self._waiting) > 1:
                dropped = len(self._waiting.popleft())
                self._size -= dropped
                self._folded += dropped
            self._changed.notify_all()

    def nudge(self) -> None:
        """Wake whoever waits for text, once."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def wait_and_take(self, timeout_seconds: float | None = None) -> str:
        """Wait for text or a nudge, at most so long, and give all the text there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._nudged, timeout_seconds)
            self._nudged = False
            return self._take()

    def take(self) -> str:
        """Give all the text there is."""
        with self._changed:
            return self._take()

    def _take(self) -> str:
        text = "".join(self._waiting)
        if self._folded:
            text = f"notebook_accel: {self._folded:,} characters are not shown; .logs(rank) has them all\n{text}"
        self._waiting.clear()
        self._size = self._folded = 0
        return text
