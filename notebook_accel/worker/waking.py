"""Wake a rank that waits for another in native code, where it does not hear its interrupt.

Such a wait (a collective of gloo, the rendezvous) ends when the connection does that it waits on; the pending
interrupt is then raised at the line that waited.
"""

from __future__ import annotations

import _thread
import ipaddress
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


def wake_when_asked(read_end: int, is_awake: Callable[[], bool]) -> None:
    """Start the thread that ends this process's connections within the machine once a byte arrives.

    Sockets that the process has by now are not its own and are left alone: a fork of the kernel has copies of those
    that the notebook is served through. Processes that are forked from this one have no such thread.

    Args:
        read_end: read end of a pipe.
        is_awake: whether there is nothing to wake any more.
    """
    strangers = frozenset(identity for _, identity in _sockets())
    # Every signal is the main thread's. The thread shows in no list of the threading module: it is not the user's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _thread.start_new_thread(_wait_and_wake, (read_end, is_awake, strangers))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_and_wake(read_end: int, is_awake: Callable[[], bool], strangers: frozenset[int]) -> None:
    if os.read(read_end, 1) and not is_awake():
        end_local_connections(strangers)


def end_local_connections(strangers: frozenset[int]) -> None:
    """Shut down every connection of this process within the machine.

    Args:
        strangers: inode numbers of the sockets that stay as they are.
    """
    for descriptor, identity in _sockets():
        if identity in strangers:
            continue
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if is_local_connection(connection):
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # it was closed meanwhile


def is_local_connection(candidate: socket.socket) -> bool:
    """Whether a socket is a TCP connection with both ends on the loopback interface.

    A listening socket is none: gloo gives up the process when its own stops listening. A connection to the outside is
    none either.
    """
    if candidate.family not in {socket.AF_INET, socket.AF_INET6} or candidate.type != socket.SOCK_STREAM:
        return False
    if candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    try:
        ends = candidate.getsockname()[0], candidate.getpeername()[0]
    except OSError:
        return False  # not connected
    return all(map(_is_loopback, ends))


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _sockets() -> Iterator[tuple[int, int]]:
    """Give the descriptor and the inode number of each socket of this process."""
    for entry in _DESCRIPTORS.iterdir():
        descriptor = int(entry.name)
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue  # the one that lists the folder
        if stat.S_ISSOCK(status.st_mode):
            yield descriptor, status.st_ino
