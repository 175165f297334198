from __future__ import annotations

import os
import signal
import socket

import pytest

from notebook_accel.worker import execed
from tests.unit.worker.forks import in_a_child


@pytest.mark.parametrize("said", [b"", b"half a head"])
def test_a_supervisor_without_a_run_ends_in_silence(said: bytes):
    ours, theirs = socket.socketpair()

    def supervise() -> None:
        ours.close()
        execed.supervisor_main(theirs.detach(), os.getppid())

    pid = in_a_child(supervise)
    theirs.close()
    ours.sendall(said)
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_supervisor_is_not_interrupted():
    ours, theirs = socket.socketpair()
    ready_read, ready_write = os.pipe()

    def supervise() -> None:
        ours.close()
        receive = execed.frames.receive

        def tell(connection: socket.socket) -> object:
            os.write(ready_write, b"x")
            return receive(connection)

        execed.frames.receive = tell
        execed.supervisor_main(theirs.detach(), os.getppid())

    pid = in_a_child(supervise)
    theirs.close()
    os.close(ready_write)
    assert os.read(ready_read, 1) == b"x"
    os.kill(pid, signal.SIGINT)
    ours.close()
    os.close(ready_read)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
