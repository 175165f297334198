from __future__ import annotations

import os
import socket

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import channels
from notebook_accel.launch.channels import Channels
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.screen import Screen
from tests.unit.launch.runs import open_descriptors


def plan_for(ranks: int, **config: object):
    return make_plan(RunConfig(num_processes=ranks, devices="cpu", **config), Inventory.fake())


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_side_closes_what_it_has(ranks: int):
    before = open_descriptors()
    opened = Channels.open(plan_for(ranks), "run")
    assert len(opened.theirs) == 1 + 3 * ranks
    assert len(set(opened.theirs) | set(opened.our_descriptors())) == 1 + 3 * ranks + 1 + 2 * ranks
    assert open_descriptors() == before + 1 + 3 * ranks + 1 + 2 * ranks + 1
    opened.close_theirs()
    assert open_descriptors() == before + 1 + 3 * ranks, "our ends and the files of the values"
    opened.close_ours()
    assert open_descriptors() == before


def test_the_ends_belong_together():
    opened = Channels.open(plan_for(2, log_prefix="<${rank}> "), "run")
    _, *ends = opened.theirs
    for number, rank in enumerate(opened.ranks):
        output, events, result = ends[3 * number : 3 * number + 3]
        os.write(output, b"line\n")
        screen = Screen()
        assert rank.read_output(screen)
        assert screen.take().text == f"<{number}> line\n"
        assert result == rank.result_file
        assert not os.get_inheritable(events)
    with socket.create_connection(("127.0.0.1", opened.port), timeout=5):
        pass
    opened.supervisor_end.send(b"x")
    assert opened.control.recv(1) == b"x"
    opened.close_theirs()
    assert opened.control.recv(1) == b""
    opened.close_ours()


def test_a_port_that_somebody_has_is_refused_and_nothing_stays_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channels, "_PORT_PATIENCE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = open_descriptors()
        with pytest.raises(ConfigError, match=f"use_port={port}: port {port} cannot be opened") as caught:
            Channels.open(plan_for(1, port=port), "run")
        assert caught.value.hint == "leave use_port out"
        assert open_descriptors() == before


def test_a_port_that_becomes_free_meanwhile_is_taken():
    import threading

    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    timer = threading.Timer(0.05, taken.close)
    timer.start()
    opened = Channels.open(plan_for(1, port=port), "run")
    timer.join()
    assert opened.port == port
    opened.close_theirs()
    opened.close_ours()
