"""Messages over a stream socket between processes of one run: length, number of descriptors, pickle.

The sockets are inherited or passed between processes of one user and never have an address, so that
nobody else can write to them; that is what makes pickle acceptable here.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Iterator, Sequence

_HEADER = struct.Struct("<QI")
_DESCRIPTORS_A_MESSAGE = 200  # Linux passes at most 253 at a time


def encode(message: object, descriptor_count: int = 0) -> bytes:
    """Give the bytes of one message."""
    body = pickle.dumps(message, protocol=5)
    return _HEADER.pack(len(body), descriptor_count) + body


def send(connection: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send one message, with file descriptors that the receiver gets copies of.

    Raises:
        OSError: the other end is gone.
    """
    connection.sendall(encode(message, len(descriptors)))
    for start in range(0, len(descriptors), _DESCRIPTORS_A_MESSAGE):
        socket.send_fds(connection, [b"\0"], list(descriptors[start : start + _DESCRIPTORS_A_MESSAGE]))


def receive(connection: socket.socket) -> tuple[object, list[int]]:
    """Wait for one message and its descriptors, which are closed on exec.

    Raises:
        EOFError: the other end is gone.
    """
    length, descriptor_count = _HEADER.unpack(_exactly(connection, _HEADER.size))
    body = _exactly(connection, length)
    descriptors: list[int] = []
    while len(descriptors) < descriptor_count:
        room = min(descriptor_count - len(descriptors), _DESCRIPTORS_A_MESSAGE)
        data, received, flags, _ = socket.recv_fds(connection, 1, room)
        if not data or flags & socket.MSG_CTRUNC:  # the other end is gone, or this process may open no more files
            raise EOFError
        for descriptor in received:  # recv_fds has a flag for it, which most Python versions ignore
            os.set_inheritable(descriptor, False)
        descriptors += received
    return pickle.loads(body), descriptors  # noqa: S301 - see the module's docstring


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


class FrameReader:
    """Cut a byte stream that arrives in pieces into messages.

    Example:
        >>> list(FrameReader().feed(encode("hello")))
        ['hello']
    """

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[object]:
        """Give the messages that ``data`` completes."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            length, _ = _HEADER.unpack_from(self._pending)
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            body = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield pickle.loads(body)  # noqa: S301 - see the module's docstring
