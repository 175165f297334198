"""The life of a rank: become fresh, load the job, call the function, hand the outcome over, end."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.wire import pickling
from notebook_accel.wire.control import StartRun
from notebook_accel.wire.events import Finished, Logged, Started
from notebook_accel.wire.outcome import Outcome, Raised, Withheld
from notebook_accel.worker import bars, children, failure, freshness, groups, results, scratch, system, waking
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.imports import when_imported
from notebook_accel.worker.progress import Progress
from notebook_accel.worker.relay import Relay
from notebook_accel.worker.rich import Displays
from notebook_accel.worker.seat import Call, Seat

_TEARDOWN_SECONDS = 5


def main(
    start: StartRun, seat: Seat, load: Callable[[], Call], flags: Flags, *, copy_of_kernel: bool = False
) -> NoReturn:
    """Be one rank of the run; called in a process of its own, which ends here.

    Args:
        start: the run.
        seat: this rank's place in it.
        load: gives the call.
        flags: what it and its supervisor know of each other.
        copy_of_kernel: True when this process is a fork of the notebook's kernel, whose ``__main__`` it has.
    """
    code = 70  # the machinery broke: nothing was handed over
    try:
        system.set_process_name(f"nbacc-rank{seat.number}")
        freshness.redirect_output(seat.output)
        freshness.take_interrupts(lambda: flags.take_order(seat.number))
        freshness.tell_stack_on_request(seat.stack)
        flags.set_listening(seat.number)
        progress = Progress()
        waking.listen(
            seat.waking,
            lambda: flags.heard(seat.number),
            lambda: flags.set_progress(seat.number, progress.count()),
        )
        when_imported(progress.actions())
        relay = Relay(socket.socket(fileno=seat.events))
        load = load if copy_of_kernel else functools.partial(_into_clean_main, load)
        outcome = _call(start, seat, load, relay, flags)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late to interrupt anything but the hand-over
        if isinstance(outcome, Raised):
            flags.set_failed(seat.number)
            os.kill(os.getppid(), signal.SIGCHLD)  # the supervisor looks at the flags when a child gives a sign
        else:
            flags.set_finished(seat.number)
        _flush()
        relay.send(Finished(seat.number, outcome))
        code = 1 if isinstance(outcome, Raised) else 0
        _tear_down()
    except BaseException:  # noqa: BLE001 - last resort: the text goes to the rank's output
        traceback.print_exc()
        _flush()
    finally:
        os._exit(code)


def _call(start: StartRun, seat: Seat, load: Callable[[], Call], relay: Relay, flags: Flags) -> Outcome:
    kernel_classes: list[type] = []
    try:
        world = seat.world(start)
        freshness.take_surroundings(start, world)
        freshness.take_exit_handlers()
        freshness.take_threads(start.threads_per_rank)
        freshness.take_random_state(start.seed)
        groups.prepare_process_groups()
        children.send_main_by_value()
        scratch.take(start.environ)
        displays = Displays(relay, seat.number)
        when_imported({**bars.actions(relay, seat.number), **displays.actions()})
        function, args, kwargs = load()
        kernel_classes = pickling.dynamic_classes()
        relay.send(Started(seat.number, os.getpid()))
        log = functools.partial(_log, relay, seat.number)
        asked = functools.partial(flags.asked_to_stop, seat.number)
        with activate(Runtime(world, start.mixed_precision, log, asked, resumes=start.resumes)) as runtime:
            try:
                value, exited = failure.call_to_its_end(function, args, kwargs)
            except BaseException:
                gc.freeze()  # to collect a DataLoader can take ten seconds, and the process is about to end
                runtime.give_up()
                raise
            runtime.finish()  # what is being saved belongs to the run
        displays.show_open_figures()
        if start.returns == "rank0" and seat.number != 0:
            return Withheld()
        return results.send_value(value, seat.result, kernel_classes, exited=exited)
    except BaseException as error:  # noqa: BLE001 - whatever the function raises is its outcome
        return Raised(failure.describe(error, seat.number, kernel_classes))


def _log(relay: Relay, rank: int, values: Mapping[str, Any], step: int | None) -> None:
    if relay.is_open:
        relay.send(Logged(rank, values, step))


def _into_clean_main(load: Callable[[], Call]) -> Call:
    """Load the call into a ``__main__`` of its own, as in a fresh process."""
    module = freshness.clean_main()
    function, args, kwargs = load()
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
