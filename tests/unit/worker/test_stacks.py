from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from notebook_accel.worker import freshness, stacks, system
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.stacks import StackFiles, computed, is_whole
from tests.patience import stopwatch
from tests.unit.worker.forks import in_a_child


class Asked:
    """A rank that listens, in a fork of this process."""

    def __init__(self, live: Callable[[], object]) -> None:
        flags_file = Flags.make_file(1)
        self.flags = Flags.of_file(flags_file, 1)
        self.files = StackFiles(1, self.flags)
        ready = os.pipe()

        def be_a_rank() -> None:
            freshness.tell_stack_on_request(self.files.descriptors[0])
            self.flags.set_listening(0)
            os.write(ready[1], b"\0")
            live()

        self.pid = in_a_child(be_a_rank)
        os.read(ready[0], 1)
        for end in (flags_file, *ready):
            os.close(end)

    def ask(self, **how: bool) -> str:
        return self.files.ask({0: self.pid}, **how)[0]

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        system.close_all(self.files.descriptors)


def sleep_here() -> None:
    time.sleep(600)


def sleep_with_a_thread() -> None:
    threading.Thread(target=sleep_here, daemon=True).start()
    time.sleep(600)


def test_a_rank_answers_as_often_as_it_is_asked():
    rank = Asked(sleep_here)
    while "in sleep_here\n" not in rank.ask():
        continue  # it has not come there
    answers = [rank.ask() for _ in range(20)]
    rank.end()
    assert len(set(answers)) == 1
    assert answers[0].count("most recent call first") == 1
    assert "in sleep_here\n" in answers[0]


def test_other_threads_answer_only_where_they_are_asked():
    rank = Asked(sleep_with_a_thread)
    while "in sleep_here\n" not in (every := rank.ask(all_threads=True)):
        continue  # the thread has not begun
    main = rank.ask()
    rank.end()
    assert every.index("Thread 0x") < every.index("in sleep_here") < every.index("Current thread 0x")
    assert every.count("in sleep_with_a_thread\n") == main.count("in sleep_with_a_thread\n") == 1
    assert "in sleep_here\n" not in main


def test_a_stopped_rank_owes_one_answer_however_often_it_is_asked():
    rank = Asked(sleep_here)
    os.kill(rank.pid, signal.SIGSTOP)
    with stopwatch() as watch:
        assert [rank.ask() for _ in range(3)] == [""] * 3
    assert watch.seconds < 3 * stacks._PATIENCE_SECONDS + 2
    os.kill(rank.pid, signal.SIGCONT)
    while not (answer := rank.ask()):
        continue
    assert answer.count("most recent call first") == 1
    rank.end()


def test_a_rank_that_does_not_listen_is_left_alone():
    flags_file = Flags.make_file(1)
    files = StackFiles(1, Flags.of_file(flags_file, 1))
    assert files.ask({0: os.getpid()}) == {0: ""}
    system.close_all([flags_file, *files.descriptors])


def test_what_a_process_has_computed():
    before = computed(os.getpid())
    end = time.thread_time() + 0.1
    while time.thread_time() < end:
        sum(range(1000))
    after = computed(os.getpid())
    if after.main_thread_seconds is None:
        pytest.skip("this system does not say")
    assert after.main_thread_seconds - before.main_thread_seconds >= 0.09
    assert after.all_threads_seconds - before.all_threads_seconds >= 0.07


def test_of_a_process_that_is_gone_nothing_is_known():
    assert computed(2**22 + 1) == stacks.Computed()


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", False),
        ("Current thread 0x1 (most recent call first):\n", False),
        ('Current thread 0x1:\n  File "a.py", line 1 in f\n', True),
        ('Current thread 0x1:\n  File "a.py", line 1 in f', False),
        ('Thread 0x2:\n  File "a.py", line 1 in f\n\nCurrent thread 0x1:\n', False),
    ],
)
def test_an_answer_is_whole_when_its_last_line_is(text: str, whole: bool):
    assert is_whole(text) == whole


def test_a_rank_whose_answer_went_missing_is_asked_again():
    file = Flags.make_file(1)
    flags = Flags.of_file(file, 1)
    os.close(file)
    files, asked = StackFiles(1, flags), []

    def answer(*_: object) -> None:
        asked.append(1)
        if len(asked) == 2:
            os.write(files.descriptors[0], b"Thread:\n  File here\n")

    def be_a_rank() -> None:
        signal.signal(system.STACK_SIGNAL, answer)
        flags.set_listening(0)
        while True:
            signal.pause()

    pid = in_a_child(be_a_rank)
    while not flags.listening(0):
        os.sched_yield()
    found = [files.ask({0: pid})[0] for _ in range(3)]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(files.descriptors[0])
    assert found == ["", "", "Thread:\n  File here\n"]
