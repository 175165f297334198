"""A thread that acts for a rank which waits for another in native code, where it does not hear its interrupt.

Such a wait (a collective of gloo, the rendezvous) ends when the connection does that it waits on; the pending
interrupt is then raised at the line that waited.
"""

from __future__ import annotations

import _thread
import os
import signal
from collections.abc import Callable

from notebook_accel.backends.connections import end_connections, sockets
from notebook_accel.worker.seat import SAY_PROGRESS, WAKE


def listen(read_end: int, is_awake: Callable[[], bool], say_progress: Callable[[], None]) -> None:
    """Start the thread that ends this process's connections within the machine, or says its progress, when asked to.

    Sockets that the process has by now are not its own and are left alone: a fork of the kernel has copies of those
    that the notebook is served through. Processes that are forked from this one have no such thread.

    Args:
        read_end: read end of a pipe, on which ``WAKE`` and ``SAY_PROGRESS`` come.
        is_awake: whether there is nothing to wake any more.
        say_progress: says how far this process has come.
    """
    strangers = frozenset(identity for _, identity in sockets())
    # Every signal is the main thread's. The thread shows in no list of the threading module: it is not the user's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _thread.start_new_thread(_obey, (read_end, is_awake, say_progress, strangers))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _obey(
    read_end: int, is_awake: Callable[[], bool], say_progress: Callable[[], None], strangers: frozenset[int]
) -> None:
    while (order := os.read(read_end, 1)) == SAY_PROGRESS:
        say_progress()
    if order == WAKE and not is_awake():
        end_local_connections(strangers)


def end_local_connections(strangers: frozenset[int]) -> None:
    """Shut down every connection of this process within the machine.

    Args:
        strangers: inode numbers of the sockets that stay as they are.
    """
    own = [descriptor for descriptor, identity in sockets() if identity not in strangers]
    end_connections(own, only_local=True)
