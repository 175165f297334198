"""The life of a rank: become fresh, load the job, call the function, hand the outcome over, end."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.wire import frames, parcel, pickling
from notebook_accel.wire.control import StartRun
from notebook_accel.wire.events import Finished, Started
from notebook_accel.wire.outcome import Outcome, Raised
from notebook_accel.worker import failure, freshness, groups, results, system
from notebook_accel.worker.flags import Flags
from notebook_accel.world import World

_TEARDOWN_SECONDS = 5


def main(start: StartRun, number: int, job: int, ends: list[int], lifeline: int, flags: Flags) -> NoReturn:
    """Be rank ``number`` of the run; called in a process of its own, which ends here."""
    code = 70  # the machinery broke: nothing was handed over
    try:
        os.setpgid(0, 0)
        system.die_with_writer(lifeline)
        system.set_process_name(f"nbacc-rank{number}")
        output_end, events_end, result_file = ends
        freshness.redirect_output(output_end)
        freshness.take_interrupts(lambda: flags.take_order(number))
        events = socket.socket(fileno=events_end)
        outcome = _call(start, number, job, events, result_file)
        if not isinstance(outcome, Raised):
            flags.set_finished(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late to interrupt anything but the hand-over
        _flush()
        frames.send(events, Finished(number, outcome))
        code = 1 if isinstance(outcome, Raised) else 0
        _tear_down()
    except BaseException:  # noqa: BLE001 - last resort: the text goes to the rank's output
        traceback.print_exc()
        _flush()
    finally:
        os._exit(code)


def _call(start: StartRun, number: int, job: int, events: socket.socket, result_file: int) -> Outcome:
    kernel_classes: list[type] = []
    try:
        world = World(
            rank=number,
            world_size=start.world_size,
            local_rank=number,
            local_world_size=start.world_size,
            device_kind=start.device_kind,
            master_port=start.port,
            agent_store=True,
        )
        freshness.take_surroundings(start, world)
        freshness.take_exit_handlers()
        freshness.take_threads(start.threads_per_rank)
        freshness.take_random_state(start.seed)
        groups.prepare_process_groups()
        function, args, kwargs = _load(job)
        kernel_classes = pickling.dynamic_classes()
        frames.send(events, Started(number, os.getpid()))
        with activate(Runtime(world, start.mixed_precision)):
            value = function(*args, **kwargs)
        return results.send_value(value, result_file, kernel_classes)
    except BaseException as error:  # noqa: BLE001 - whatever the function raises is its outcome
        return Raised(failure.describe(error, number, kernel_classes))


def _load(job: int) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    module = freshness.clean_main()
    function, args, kwargs = pickling.loads(parcel.read(job))
    os.close(job)
    freshness.fill_main(module, function)
    return function, args, kwargs


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the function closed it, or the kernel is gone
            continue
    system.flush_c_streams()


def _tear_down() -> None:
    """Give threads and exit handlers of the function their time, but never the time of the run.

    The value has been handed over; SIGALRM with its default action ends a teardown that hangs, also in native code.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_TEARDOWN_SECONDS)
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - waits for non-daemon threads, as a process that ends does
    atexit._run_exitfuncs()  # noqa: SLF001 - the process ends without the interpreter's own shutdown
    _flush()
