from __future__ import annotations

import os

import pytest

from notebook_accel.worker.flags import Flags


def test_each_side_sees_what_the_other_has_written():
    file = Flags.make_file(3)
    flags = Flags.of_file(file, 3)
    os.close(file)
    assert not flags.take_order(1), "nobody has ordered it"
    flags.order_interrupt(1)
    pid = os.fork()
    if pid == 0:
        heard = flags.take_order(1) and not flags.take_order(0)
        flags.set_finished(2)
        os._exit(0 if heard else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert [flags.acknowledged(rank) for rank in range(3)] == [False, True, False]
    assert [flags.finished(rank) for rank in range(3)] == [False, False, True]


@pytest.mark.parametrize("ranks", [1, 2048, 5000])
def test_every_rank_has_facts_of_its_own(ranks: int):
    file = Flags.make_file(ranks)
    flags = Flags.of_file(file, ranks)
    os.close(file)
    last = ranks - 1
    flags.set_finished(last)
    flags.order_interrupt(last)
    assert flags.finished(last)
    assert not flags.acknowledged(last), "an order is not its answer"
    assert flags.take_order(last)
    assert flags.take_order(last), "an order stands"
    assert flags.acknowledged(last)
    assert flags.finished(last)
    assert not flags.listening(last)
    flags.set_listening(last)
    assert flags.listening(last)
    assert not any(flags.finished(rank) or flags.acknowledged(rank) for rank in range(last))


def test_facts_of_both_sides_stand_beside_each_other():
    file = Flags.make_file(2)
    flags = Flags.of_file(file, 2)
    os.close(file)
    flags.ask_to_stop(1)
    assert not flags.take_order(1), "to be asked is not to be interrupted"
    flags.order_interrupt(1)
    assert [flags.asked_to_stop(rank) for rank in range(2)] == [False, True]
    assert not flags.heard(1)
    assert flags.take_order(1)
    assert flags.heard(1)
    assert not flags.is_over(1)


@pytest.mark.parametrize("how", ["failed", "finished"])
def test_a_function_is_over_either_way(how: str):
    file = Flags.make_file(2)
    flags = Flags.of_file(file, 2)
    os.close(file)
    getattr(flags, f"set_{how}")(0)
    assert (flags.failed(0), flags.finished(0)) == (how == "failed", how == "finished")
    assert (flags.is_over(0), flags.heard(0), flags.acknowledged(0)) == (True, True, False)
    assert not flags.is_over(1)


def test_how_far_each_rank_has_come():
    file = Flags.make_file(3)
    flags = Flags.of_file(file, 3)
    os.close(file)
    flags.set_progress(1, 2**40)
    flags.set_progress(2, 7)
    flags.order_interrupt(2)
    assert [flags.progress(rank) for rank in range(3)] == [0, 2**40, 7]
    assert [flags.heard(rank) for rank in range(3)] == [False] * 3
