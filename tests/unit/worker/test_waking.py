from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest

from notebook_accel.backends import connections
from notebook_accel.backends.connections import is_local_connection
from notebook_accel.worker import waking
from notebook_accel.worker.seat import SAY_PROGRESS, WAKE
from tests.unit.worker.forks import in_a_fork


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connected(stack: ExitStack, host: str, family: int = socket.AF_INET) -> tuple[socket.socket, socket.socket]:
    """Give both ends of a TCP connection that goes by ``host``."""
    try:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
    except OSError as error:
        if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            raise
        pytest.skip(f"this machine has no {host}")
    near = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
    far, _ = listener.accept()
    return near, stack.enter_context(far)


def outer_address() -> str:
    """Give an address of this machine that others may use."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    pytest.skip("this machine has no other interface than loopback")


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_both_ends_of_a_loopback_connection_are_local(open_sockets: ExitStack, host: str, family: int):
    near, far = connected(open_sockets, host, family)
    assert is_local_connection(near)
    assert is_local_connection(far)


def test_a_connection_by_another_interface_is_not(open_sockets: ExitStack):
    near, far = connected(open_sockets, outer_address())
    assert not is_local_connection(near)
    assert not is_local_connection(far)


@pytest.mark.parametrize(
    "make",
    [
        lambda: socket.create_server(("127.0.0.1", 0)),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    ],
    ids=["listening", "unconnected", "datagrams", "unix"],
)
def test_what_is_no_connection_is_not(make: Callable[[], socket.socket]):
    with make() as candidate:
        assert not is_local_connection(candidate)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_what_is_loopback(host: str, loopback: bool):
    assert connections._is_loopback(host) == loopback


def test_only_the_processs_own_local_connections_end(open_sockets: ExitStack):
    inherited = connected(open_sockets, "127.0.0.1")

    def end_own() -> list[bytes | None]:
        with ExitStack() as stack:
            strangers = frozenset(identity for _, identity in connections.sockets())
            own, _ = connected(stack, "127.0.0.1")
            pair = [stack.enter_context(end) for end in socket.socketpair()]
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            waking.end_local_connections(strangers)
            found: list[bytes | None] = []
            for connection in (own, inherited[0], pair[0]):
                connection.setblocking(False)
                try:
                    found.append(connection.recv(1))
                except BlockingIOError:
                    found.append(None)  # still connected
            stack.enter_context(socket.create_connection(listener.getsockname()))
            return found

    assert in_a_fork(end_own) == [b"", None, None]


def test_a_waiting_process_is_woken_when_it_is_asked():
    def wait() -> tuple[bytes, int, int]:
        import signal
        import threading

        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        read_end, write_end = os.pipe()
        waking.listen(read_end, lambda: False, lambda: None)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        with ExitStack() as stack:
            near, _ = connected(stack, "127.0.0.1")
            os.write(write_end, WAKE)
            return near.recv(1), threading.active_count(), len(os.listdir("/proc/self/task"))

    woken, python_threads, threads = in_a_fork(wait)
    assert woken == b""
    assert python_threads == 1, "the user's program has no thread more than it started"
    assert threads <= 2


def test_a_process_that_is_awake_is_left_alone():
    def wait() -> bytes:
        import threading

        looked = threading.Event()
        read_end, write_end = os.pipe()

        def is_awake() -> bool:
            looked.set()
            return True

        waking.listen(read_end, is_awake, lambda: None)
        with ExitStack() as stack:
            near, far = connected(stack, "127.0.0.1")
            os.write(write_end, WAKE)
            looked.wait()
            far.send(b"x")
            return near.recv(1)

    assert in_a_fork(wait) == b"x"


def test_progress_is_said_as_often_as_it_is_asked_for_and_then_it_is_woken():
    def wait() -> tuple[int, bytes]:
        import threading

        said = threading.Semaphore(0)
        read_end, write_end = os.pipe()
        waking.listen(read_end, lambda: False, said.release)
        with ExitStack() as stack:
            near, _ = connected(stack, "127.0.0.1")
            os.write(write_end, SAY_PROGRESS * 2)
            said.acquire()
            said.acquire()
            os.write(write_end, WAKE)
            return said._value, near.recv(1)

    assert in_a_fork(wait) == (0, b"")
