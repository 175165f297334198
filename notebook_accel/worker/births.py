"""The ways a rank can be born: forked, or as a fresh interpreter."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence

from notebook_accel.wire import parcel
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import system
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import Call, Seat

_BOOT = (
    "import sys; arguments, *sys.path[:] = sys.argv[1:];"
    "from notebook_accel.worker.execed import rank_main; rank_main(int(arguments))"
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
