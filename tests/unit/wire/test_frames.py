from __future__ import annotations

import os
import socket
import threading

import pytest

from notebook_accel.wire import frames


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.mark.parametrize("count", [0, 1, 200, 201, 430])
def test_a_message_travels_with_its_descriptors(pair, count: int):
    left, right = pair
    read_end, write_end = os.pipe()
    frames.send(left, {"n": count}, [write_end] * count)
    message, descriptors = frames.receive(right)
    assert message == {"n": count}
    assert len(descriptors) == count
    for number, descriptor in enumerate(descriptors):
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, bytes([number % 256]))
        os.close(descriptor)
    os.close(write_end)
    assert os.read(read_end, 1000) == bytes(number % 256 for number in range(count))
    os.close(read_end)


@pytest.mark.parametrize("size", [1, 5, 13, 4096])
def test_pieces_of_any_size_make_the_same_messages(size: int):
    messages = ["a", {"b": [1, 2]}, None, "x" * 3000]
    stream = b"".join(map(frames.encode, messages))
    reader = frames.FrameReader()
    found = [message for i in range(0, len(stream), size) for message in reader.feed(stream[i : i + size])]
    assert found == messages


def test_a_closed_end_is_an_end_of_file(pair):
    left, right = pair
    left.sendall(frames.encode("cut")[:-1])
    left.close()
    with pytest.raises(EOFError):
        frames.receive(right)


def test_messages_keep_their_order_and_their_own_descriptors(pair):
    left, right = pair
    ends = [os.pipe() for _ in range(3)]
    for number, (read_end, _) in enumerate(ends):
        frames.send(left, number, [read_end] * (number * 150))
    for number, (read_end, write_end) in enumerate(ends):
        os.write(write_end, b"x" * 300)
        message, descriptors = frames.receive(right)
        assert (message, len(descriptors)) == (number, number * 150)
        assert b"".join(os.read(descriptor, 1) for descriptor in descriptors) == b"x" * number * 150
        for descriptor in (*descriptors, read_end, write_end):
            os.close(descriptor)


def test_a_message_larger_than_the_sockets_buffer(pair):
    left, right = pair
    big = os.urandom(5_000_000)
    sender = threading.Thread(target=frames.send, args=(left, big))
    sender.start()
    assert frames.receive(right) == (big, [])
    sender.join()


@pytest.mark.parametrize("announced", [b"", frames.encode("x")[:3], frames.encode("x")[:12], frames.encode("x", 1)])
def test_an_end_anywhere_before_the_last_part_is_an_end_of_file(pair, announced: bytes):
    left, right = pair
    left.sendall(announced)
    left.close()
    with pytest.raises(EOFError):
        frames.receive(right)


def test_sending_to_nobody_is_an_error_of_the_system(pair):
    left, right = pair
    right.close()
    with pytest.raises(OSError, match="Broken pipe"):
        frames.send(left, "x" * 100)


def test_a_reader_waits_for_the_last_byte():
    reader, stream = frames.FrameReader(), frames.encode({"a": 1})
    assert list(reader.feed(stream[:-1])) == []
    assert list(reader.feed(b"")) == []
    assert list(reader.feed(stream[-1:] + stream)) == [{"a": 1}] * 2
    assert list(reader.feed(b"")) == []
