"""Where processes that something else has started come to their supervisor: a UNIX socket, behind a token.

A process that inherits nothing (a start by ``spawn`` closes every descriptor) connects here and gets its descriptors.
Nothing is unpickled before the other side has shown that it belongs to the same user and knows the token.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
from dataclasses import dataclass

from notebook_accel.wire import frames

_TOKEN_BYTES = 32
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_PATIENCE_SECONDS = 2.0  # what a newcomer of ours says lies in its socket as soon as it is connected


@dataclass(frozen=True)
class MeetingPoint:
    """How to come to the supervisor.

    Attributes:
        name: of the socket, in Linux's abstract namespace: it leaves no file behind, whatever ends the supervisor.
        token: what a newcomer says first.
    """

    name: str
    token: bytes

    def connect(self) -> socket.socket:
        """Connect and say the token.

        Raises:
            ConnectionError: nobody is there any more, or somebody else.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"\0{self.name}")
            _check_user(connection)
            connection.sendall(self.token)
        except BaseException:
            connection.close()
            raise
        return connection


@dataclass(frozen=True)
class Newcomer:
    """A process that has come.

    Attributes:
        connection: the socket to it.
        message: the first thing that it said.
    """

    connection: socket.socket
    message: object


class Meeting:
    """The supervisor's side.

    Attributes:
        point: how to come here.
    """

    def __init__(self) -> None:
        self.point = MeetingPoint(f"notebook_accel-{secrets.token_hex(16)}", secrets.token_bytes(_TOKEN_BYTES))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"\0{self.point.name}")
        self._listener.listen()
        self._listener.setblocking(False)

    def fileno(self) -> int:
        """Give the descriptor that is readable when somebody has come."""
        return self._listener.fileno()

    def welcome(self) -> Newcomer | None:
        """Let the next one in; None where nobody is there, or somebody who does not belong here."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return None
        connection.settimeout(_PATIENCE_SECONDS)
        try:
            if _user_at(connection) != os.getuid() or not hmac.compare_digest(_token_of(connection), self.point.token):
                connection.close()
                return None
            message, _ = frames.receive(connection)
        except (OSError, EOFError):
            connection.close()
            return None
        return Newcomer(connection, message)

    def close(self) -> None:
        """Let nobody in any more."""
        self._listener.close()


def _token_of(connection: socket.socket) -> bytes:
    said = b""
    while len(said) < _TOKEN_BYTES:
        part = connection.recv(_TOKEN_BYTES - len(said))
        if not part:
            raise EOFError
        said += part
    return said


def _check_user(connection: socket.socket) -> None:
    if _user_at(connection) != os.getuid():
        raise ConnectionRefusedError("the supervisor's socket belongs to another user")


def _user_at(connection: socket.socket) -> int:
    """Give the user whose process is at the other end, as the system says."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])
