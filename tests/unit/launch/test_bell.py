from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from notebook_accel.launch.bell import Bell, Flag
from notebook_accel.launch.screen import Screen
from notebook_accel.launch.stacks import StackQuestions
from tests.interrupting import is_interrupted, returns_soon


def test_a_flag_is_waited_for_until_it_is_set():
    flag = Flag()
    assert (flag.is_set(), flag.wait(0), flag.wait(0.001)) == (False, False, False)
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.append(flag.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join()
    assert seen == [True] * 3
    assert (flag.is_set(), flag.wait(), flag.wait(0)) == (True, True, True)
    flag.clear()
    assert (flag.is_set(), flag.wait(0.001)) == (False, False)


def test_a_bell_that_rings_for_something_else_ends_no_wait():
    bell, come = Bell(), []
    waits = threading.Thread(target=bell.wait_for, args=(lambda: come,))
    waits.start()
    for _ in range(100):
        bell.ring()
    waits.join(0.01)
    assert waits.is_alive()
    come.append(1)
    bell.ring()
    waits.join()


def test_what_comes_while_a_wait_begins_is_not_missed():
    for _ in range(2000):
        flag = Flag()
        sets = threading.Thread(target=flag.set)
        sets.start()
        assert flag.wait(60)
        sets.join()


def _of_flag() -> tuple[Callable[[], object], Callable[[], object]]:
    flag = Flag()
    return lambda: flag.wait(0.0001), flag.set


def _of_set_flag() -> tuple[Callable[[], object], Callable[[], object]]:
    flag = Flag()
    return flag.set, lambda: (flag.set(), flag.wait())


def _of_screen() -> tuple[Callable[[], object], Callable[[], object]]:
    screen = Screen()
    return lambda: (screen.wait(0.0001), screen.look(), screen.take()), lambda: screen.put("text")


def _of_questions() -> tuple[Callable[[], object], Callable[[], object]]:
    questions = StackQuestions(lambda _: None)
    return lambda: questions.ask(0.0001), questions.close


@pytest.mark.parametrize("made", [_of_flag, _of_set_flag, _of_screen, _of_questions])
def test_an_interrupt_leaves_nobody_else_waiting_wherever_it_is_raised(
    made: Callable[[], tuple[Callable[[], object], Callable[[], object]]],
):
    for place in itertools.count():
        waits, others = made()
        was_interrupted = is_interrupted(waits, place)
        assert returns_soon(others), f"interrupted at place {place}"
        if not was_interrupted:
            break
    assert place > 0
