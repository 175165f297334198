"""torch's elastic launcher for scripts, with an exit code that is the script's, and failures in a line."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from typing import NoReturn

from notebook_accel.worker.system import end_with_parent


def main() -> NoReturn:
    """Launch what the command line of this process says; see ``torchrun --help``."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until torch's launcher listens there is nothing to end but this
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])  # blocked for the start
    from torch.distributed import run  # noqa: PLC0415 - signals come first, this takes seconds
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415 - the same
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415 - the same

    code = 0
    options = run.parse_args(sys.argv[1:])  # type: ignore[no-untyped-call]  # torch's own
    try:
        with tempfile.TemporaryDirectory(prefix="notebook_accel_") as folder:  # torch would leave one of its own
            options.log_dir = options.log_dir or folder
            run.run(options)  # type: ignore[no-untyped-call]  # torch's own
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.stderr.write(f"notebook_accel: rank {rank} {_ended_how(failure.exitcode)}\n")
        code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        code = 128 + error.sigval
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the threads of the store may keep an interpreter that winds up waiting for ever


def _ended_how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"failed first, with exit code {exit_code}"
    return f"was ended first, by {signal.Signals(-exit_code).name}"
