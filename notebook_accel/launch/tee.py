"""Keep a copy of what Python code prints in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from notebook_accel.launch.output import RankOutput


class _Tee(io.TextIOBase):
    """Writes to a stream and to a rank's output; everything else is the stream's own."""

    def __init__(self, stream: TextIO, copy: RankOutput) -> None:
        self._stream = stream
        self._copy = copy

    def write(self, text: str) -> int:
        self._copy.add(text.encode(errors="replace"))
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> Any:
        return self._stream.encoding


@contextmanager
def teed(copy: RankOutput) -> Iterator[None]:
    """Copy stdout and stderr to ``copy`` for the duration of a block."""
    with redirect_stdout(_Tee(sys.stdout, copy)), redirect_stderr(_Tee(sys.stderr, copy)):
        yield
