"""The connections of this process."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


def sockets() -> Iterator[tuple[int, int]]:
    """Give the descriptor and the inode number of each socket of this process."""
    for entry in _DESCRIPTORS.iterdir():
        descriptor = int(entry.name)
        try:
            status = os.fstat(descriptor)
        except OSError:
            continue  # the one that lists the folder
        if stat.S_ISSOCK(status.st_mode):
            yield descriptor, status.st_ino


def end_connections(descriptors: Iterable[int], *, only_local: bool) -> None:
    """Shut connections down, so that whoever waits on them, here or at the other end, learns of it.

    Args:
        descriptors: sockets of this process; those that listen are left alone.
        only_local: leave connections to other machines alone.
    """
    for descriptor in descriptors:
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                if is_local_connection(connection) or not (only_local or _listens(connection)):
                    connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # it was closed meanwhile, or is not connected


def is_local_connection(candidate: socket.socket) -> bool:
    """Whether a socket is a TCP connection with both ends on the loopback interface.

    A listening socket is none: gloo gives up the process when its own stops listening. A connection to the outside is
    none either.
    """
    if candidate.family not in {socket.AF_INET, socket.AF_INET6} or candidate.type != socket.SOCK_STREAM:
        return False
    if _listens(candidate):
        return False
    try:
        ends = candidate.getsockname()[0], candidate.getpeername()[0]
    except OSError:
        return False  # not connected
    return all(map(_is_loopback, ends))


def _listens(candidate: socket.socket) -> bool:
    return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
