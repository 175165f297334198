"""What a rank finds when it is born."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from notebook_accel.wire import parcel, shared
from notebook_accel.wire.control import StartRun
from notebook_accel.wire.shared import Shared
from notebook_accel.world import World

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # a function, its args and its kwargs
WAKE, SAY_PROGRESS = b"\0", b"?"  # what a rank's listening thread is told


@dataclass(frozen=True)
class Seat:
    """One rank's place, with the descriptors that it owns.

    Attributes:
        number: its rank.
        output: write end of its output pipe.
        events: its end of the event socket.
        result: the file for its value.
        lifeline: a pipe's read end that closes when its supervisor is gone.
        stack: the file in which it writes where it is, when asked.
        waking: read end of the pipe on which its listening thread is told what to do.
    """

    number: int
    output: int
    events: int
    result: int
    lifeline: int
    stack: int
    waking: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return self.output, self.events, self.result, self.lifeline, self.stack, self.waking

    def world(self, start: StartRun) -> World:
        """Give the rank's place in the run."""
        return World(
            rank=self.number,
            world_size=start.world_size,
            local_rank=self.number,
            local_world_size=start.world_size,
            device_kind=start.device_kind,
            master_port=start.port,
            agent_store=True,
            restart_count=start.restart_count,
            max_restarts=start.max_restarts,
        )


def load_call(files: Sequence[int]) -> Call:
    """Rebuild a call from its parcel and the shared objects that travel beside it; the files are used up."""
    function, args, kwargs = shared.load(parcel.read(files[0]), files[1:])
    os.close(files[0])
    return function.value if isinstance(function, Shared) else function, args, kwargs
