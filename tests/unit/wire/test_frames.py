from __future__ import annotations

import os
import socket

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
