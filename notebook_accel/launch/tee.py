"""Keep a copy of what Python code prints in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

from notebook_accel.launch.output import RankOutput


class _Tee:
    """Writes to a stream and to a rank's output; everything else is the stream's own."""

    def __init__(self, stream: TextIO, copy: RankOutput) -> None:
        self._stream = stream
        self._copy = copy

    def write(self, text: str) -> int:
        self._copy.add(text.encode(errors="replace"))
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def teed(copy: RankOutput) -> Iterator[None]:
    """Copy stdout and stderr to ``copy`` for the duration of a block."""
    out, err = cast("TextIO", _Tee(sys.stdout, copy)), cast("TextIO", _Tee(sys.stderr, copy))
    with redirect_stdout(out), redirect_stderr(err):
        yield
