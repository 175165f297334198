"""Where the ranks are: the files into which they write their stacks, and how a supervisor asks for that."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from notebook_accel.wire import parcel
from notebook_accel.wire.control import Computed
from notebook_accel.worker import system
from notebook_accel.worker.flags import Flags

_PATIENCE_SECONDS = 0.3  # a rank writes its stacks within a few milliseconds, whatever it does
_LOOK_SECONDS = 0.003
_LONGEST_BYTES = 1 << 20
_NANOSECONDS = 1e9


class StackFiles:
    """One file for each rank; a rank and its supervisor share the position in it.

    Args:
        world_size: number of ranks.
        flags: say which ranks may be asked.

    Attributes:
        descriptors: the files, in the order of the ranks.
    """

    def __init__(self, world_size: int, flags: Flags) -> None:
        self.descriptors = [parcel.anonymous_file(f"stack{number}") for number in range(world_size)]
        self._flags = flags
        # A stopped process answers when it goes on; until then signals would queue up. Another is asked again: a thread
        # without Python that has got the signal in the main thread's stead writes nothing.
        self._owing: set[int] = set()

    def ask(self, processes: Mapping[int, int], *, all_threads: bool = False) -> dict[int, str]:
        """Ask ranks where they are, also those that are in native code.

        Args:
            processes: the process of each rank that is asked, by rank.
            all_threads: ask for the stacks of all threads, not of the main thread alone.

        Returns:
            What faulthandler wrote, by rank; empty for one that does not listen yet or did not answer in 0.3 s.
        """
        texts = dict.fromkeys(processes, "")
        waiting, late = {number for number in processes if self._flags.listening(number)}, set()
        for number in waiting:
            if number in self._owing and not self._read(number):
                late.add(number)
                continue
            os.ftruncate(self.descriptors[number], 0)
            os.lseek(self.descriptors[number], 0, os.SEEK_SET)
            self._owing.add(number)
            os.kill(processes[number], system.ALL_STACKS_SIGNAL if all_threads else system.STACK_SIGNAL)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while waiting and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            for number in tuple(waiting):
                before, texts[number] = texts[number], self._read(number)
                if is_whole(texts[number]) and texts[number] == before:
                    waiting.discard(number)
                    self._owing.discard(number)
        self._owing -= {number for number in waiting & late if not _is_stopped(processes[number])}
        return texts

    def _read(self, number: int) -> str:
        return os.pread(self.descriptors[number], _LONGEST_BYTES, 0).decode(errors="replace")


def _is_stopped(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in {"T", "t"}


def is_whole(text: str) -> bool:
    """Tell whether the last thread has begun to say where it is, and the last line has ended."""
    return text.endswith("\n") and text.splitlines()[-1].startswith("  ")


def computed(pid: int) -> Computed:
    """Give how much processor time a process has used."""
    process = Path("/proc") / str(pid)
    try:
        main_thread = int((process / "schedstat").read_text().split()[0]) / _NANOSECONDS
        user, system_ = (process / "stat").read_text().rpartition(")")[2].split()[11:13]
        return Computed(main_thread, (int(user) + int(system_)) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return Computed()
