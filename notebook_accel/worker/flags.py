"""One shared page between a supervisor and its ranks: what each side knows, written by that side only."""

from __future__ import annotations

import mmap
import os
import struct

from notebook_accel.wire import parcel

_ORDERED, _ASKED_TO_STOP = 1, 2  # the supervisor's
_ACKNOWLEDGED, _FINISHED, _LISTENING, _FAILED = 2, 4, 8, 16  # the rank's
_PROGRESS = struct.Struct("q")


class Flags:
    """Facts about each rank that the other side may look at any time, without a message.

    Args:
        page: shared memory: two bytes for each rank, the first written by the supervisor, the second by the rank, and
            after them a number for each, written by the rank.
        world_size: number of ranks.
    """

    def __init__(self, page: mmap.mmap, world_size: int) -> None:
        self._page = page
        self._numbers_at = 2 * world_size

    @staticmethod
    def make_file(world_size: int) -> int:
        """Make the file of a run's flags and give its descriptor."""
        file = parcel.anonymous_file("flags")
        os.ftruncate(file, _page_bytes(world_size))
        return file

    @classmethod
    def of_file(cls, file: int, world_size: int) -> Flags:
        """Map the flags that lie in a file, which may be closed then."""
        return cls(mmap.mmap(file, _page_bytes(world_size)), world_size)

    def order_interrupt(self, rank: int) -> None:
        """Supervisor: the next SIGINT of this rank is meant."""
        self._page[2 * rank] |= _ORDERED

    def take_order(self, rank: int) -> bool:
        """Rank: whether an interrupt was ordered; says that it was heard. A SIGINT of anybody else is not meant."""
        if not self._page[2 * rank] & _ORDERED:
            return False
        self._page[2 * rank + 1] |= _ACKNOWLEDGED
        return True

    def acknowledged(self, rank: int) -> bool:
        """Supervisor: whether the rank's Python handler has run."""
        return bool(self._page[2 * rank + 1] & _ACKNOWLEDGED)

    def ask_to_stop(self, rank: int) -> None:
        """Supervisor: the function should come to an end by itself."""
        self._page[2 * rank] |= _ASKED_TO_STOP

    def asked_to_stop(self, rank: int) -> bool:
        """Rank: whether the function should come to an end by itself."""
        return bool(self._page[2 * rank] & _ASKED_TO_STOP)

    def set_listening(self, rank: int) -> None:
        """Rank: it writes where it is when it gets the signal for that."""
        self._page[2 * rank + 1] |= _LISTENING

    def listening(self, rank: int) -> bool:
        """Supervisor: whether the signal for a stack will not end the rank."""
        return bool(self._page[2 * rank + 1] & _LISTENING)

    def set_finished(self, rank: int) -> None:
        """Rank: the function has returned and its value is on its way."""
        self._page[2 * rank + 1] |= _FINISHED

    def finished(self, rank: int) -> bool:
        """Supervisor: whether the function has returned."""
        return bool(self._page[2 * rank + 1] & _FINISHED)

    def set_failed(self, rank: int) -> None:
        """Rank: the function has raised."""
        self._page[2 * rank + 1] |= _FAILED

    def failed(self, rank: int) -> bool:
        """Supervisor: whether the function has raised."""
        return bool(self._page[2 * rank + 1] & _FAILED)

    def is_over(self, rank: int) -> bool:
        """Supervisor: whether the function has ended, either way."""
        return bool(self._page[2 * rank + 1] & (_FINISHED | _FAILED))

    def heard(self, rank: int) -> bool:
        """Supervisor: whether its Python handler has run or its function is over: nothing need be woken."""
        return self.acknowledged(rank) or self.is_over(rank)

    def set_progress(self, rank: int, progress: int) -> None:
        """Rank: how far it has come."""
        _PROGRESS.pack_into(self._page, self._numbers_at + _PROGRESS.size * rank, progress)

    def progress(self, rank: int) -> int:
        """Supervisor: how far the rank had come when it said so last."""
        said: int = _PROGRESS.unpack_from(self._page, self._numbers_at + _PROGRESS.size * rank)[0]
        return said


def _page_bytes(world_size: int) -> int:
    return (2 + _PROGRESS.size) * world_size
