"""What a rank finds when it is born, and the ways it can be born: forked, or as a fresh interpreter."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from notebook_accel.wire import parcel, shared
from notebook_accel.wire.control import StartRun
from notebook_accel.wire.shared import Shared
from notebook_accel.worker import system
from notebook_accel.worker.flags import Flags
from notebook_accel.world import World

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # a function, its args and its kwargs
_BOOT = (
    "import sys; arguments, *sys.path[:] = sys.argv[1:];"
    "from notebook_accel.worker.execed import rank_main; rank_main(int(arguments))"
)


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
    """

    number: int
    output: int
    events: int
    result: int
    lifeline: int
    stack: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return self.output, self.events, self.result, self.lifeline, self.stack

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


# From a seat, the file of the flags and the descriptors that are none of the rank's business, to its process.
Birth = Callable[[Seat, int, Sequence[int]], int]


def forked(start: StartRun, load: Callable[[], Call], *, copy_of_kernel: bool = False) -> Birth:
    """Fork each rank from this process, which has everything imported.

    Args:
        start: the run.
        load: gives the call, in the rank.
        copy_of_kernel: True when this process is itself a fork of the notebook's kernel.
    """

    def give_birth(seat: Seat, flags_file: int, strangers: Sequence[int]) -> int:
        from notebook_accel.worker import rank  # noqa: PLC0415 - it brings torch, which not every supervisor needs

        pid = os.fork()
        if pid != 0:
            return pid
        try:
            signal.set_wakeup_fd(-1)
            system.close_all(strangers)
            system.lead_group_until_closed(seat.lifeline)
            flags = Flags.of_file(flags_file, start.world_size)
            os.close(flags_file)
            rank.main(start, seat, load, flags, copy_of_kernel=copy_of_kernel)
        finally:
            os._exit(70)  # what goes wrong here must not go on as a second supervisor

    return give_birth


def execed(start: StartRun, files: Sequence[int]) -> Birth:
    """Start a fresh interpreter for each rank.

    Args:
        start: the run.
        files: descriptors of the call's parcel and its shared objects.
    """

    def give_birth(seat: Seat, flags_file: int, _strangers: Sequence[int]) -> int:
        arguments = parcel.anonymous_file("arguments")
        os.write(arguments, pickle.dumps((start, seat, list(files), flags_file)))
        passed = [*seat.descriptors, *files, flags_file, arguments]
        command = [sys.executable, "-c", _BOOT, str(arguments), *sys.path]
        variables = {**start.environ, **seat.world(start).to_env(start.run_id, start.mixed_precision)}
        for descriptor in passed:
            os.set_inheritable(descriptor, True)
        try:
            return os.posix_spawn(sys.executable, command, variables, setpgroup=0)
        finally:
            for descriptor in passed:
                os.set_inheritable(descriptor, False)
            os.close(arguments)

    return give_birth


def load_call(files: Sequence[int]) -> Call:
    """Rebuild a call from its parcel and the shared objects that travel beside it; the files are used up."""
    function, args, kwargs = shared.load(parcel.read(files[0]), files[1:])
    os.close(files[0])
    return function.value if isinstance(function, Shared) else function, args, kwargs
