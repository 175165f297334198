from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from notebook_accel.wire import frames
from notebook_accel.worker.meeting import Meeting


@pytest.fixture
def meeting():
    opened = Meeting()
    yield opened
    opened.close()


def test_who_knows_the_token_is_let_in(meeting: Meeting):
    assert meeting.welcome() is None
    with meeting.point.connect() as mine:
        frames.send(mine, ("here", os.getpid()))
        newcomer = meeting.welcome()
        assert newcomer is not None
        assert newcomer.message == ("here", os.getpid())
        frames.send(newcomer.connection, "welcome")
        assert frames.receive(mine) == ("welcome", [])
        newcomer.connection.close()


@pytest.mark.parametrize("said", [bytes(32), b"short"])
def test_who_does_not_is_not(meeting: Meeting, said: bytes):
    with replace(meeting.point, token=said).connect() as stranger:
        frames.send(stranger, "never unpickled")
        stranger.shutdown(socket.SHUT_WR)
        assert meeting.welcome() is None
        with pytest.raises(ConnectionResetError):  # closed with what was said unread
            stranger.recv(1)


def test_nobody_is_there_once_it_is_closed(meeting: Meeting):
    meeting.close()
    with pytest.raises(ConnectionError):
        meeting.point.connect()
