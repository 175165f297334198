from __future__ import annotations

import faulthandler
import json
import linecache
import os
import tempfile
import threading
from pathlib import Path

import pytest

import notebook_accel
from notebook_accel.launch.stacks import SILENT, Frame, StackQuestions, main_thread, read, readable
from notebook_accel.wire.control import Stacks

RANK = Path(notebook_accel.__file__).parent / "worker" / "rank.py"
LAUNCHER = (
    f'  File "{RANK}", line 80 in _call\n  File "{RANK}", line 50 in main\n  File "<string>", line 1 in <module>\n'
)
MAIN = f'Current thread 0x00a1 (most recent call first):\n  File "train.py", line 7 in train\n{LAUNCHER}'
OTHER = (
    "Thread 0x00b2 [reader] (most recent call first):\n"
    f'  File "train.py", line 3 in beside\n  File "{threading.__file__}", line 9 in run\n'
    f'  File "{threading.__file__}", line 8 in _bootstrap_inner\n'
    f'  File "{threading.__file__}", line 7 in _bootstrap\n\n'
)


def test_the_main_thread_comes_first_without_the_launcher():
    main, other = read(OTHER + MAIN)
    assert (main.is_main, main.frames) == (True, (Frame("train.py", 7, "train"),))
    assert (other.is_main, other.name) == (False, "0x00b2 [reader]")
    assert [frame.function for frame in other.frames] == ["beside", "run"]


def test_what_this_version_of_python_writes_is_understood():
    texts = []
    for all_threads in (False, True):
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=all_threads)
            texts.append(os.pread(file.fileno(), 1 << 20, 0).decode())
    for text in texts:
        main = read(text)[0]
        assert main.is_main
        assert main.frames[0].function == "test_what_this_version_of_python_writes_is_understood"
        assert main.frames[0].file == __file__


def test_without_a_mark_the_oldest_thread_is_the_main_one():
    unmarked = MAIN.replace("Current thread", "Thread")
    assert [stack.is_main for stack in read(OTHER + unmarked)] == [True, False]
    assert read(OTHER + unmarked)[0].frames == (Frame("train.py", 7, "train"),)


def test_of_two_answers_the_later_counts():
    later = MAIN.replace("line 7", "line 8")
    [main] = read(MAIN + later)
    assert main.frames == (Frame("train.py", 8, "train"),)


@pytest.mark.parametrize("nothing", ["", "\n", '  File "cut.py", line 1 in off\n'])
def test_a_rank_that_wrote_nothing_has_no_stack(nothing: str):
    assert read(nothing) == []
    assert main_thread(nothing) == ""
    assert readable(nothing) == SILENT


def test_the_main_threads_part_is_as_it_was_written():
    assert main_thread(OTHER + MAIN).endswith(':\n  File "train.py", line 7 in train\n')
    assert read(main_thread(OTHER + MAIN))[0].frames == read(MAIN)[0].frames


def test_a_stack_reads_like_a_traceback():
    name = "<a cell of this test>"
    source = "def train():\n    compute()\n"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    inner = f'  File "{json.__file__}", line 100000 in loads\n  File "{name}", line 2 in train\n'
    try:
        text = readable(OTHER + f"Current thread 0x1 (most recent call first):\n{inner}{LAUNCHER}")
    finally:
        del linecache.cache[name]
    assert text == (
        "Main thread (most recent call last):\n"
        f'  File "{name}", line 2, in train\n    compute()\n'
        f'  File "{json.__file__}", line 100000, in loads\n\n'
        "Thread 0x00b2 [reader] (most recent call last):\n"
        + _call(threading.__file__, 9, "run")
        + '  File "train.py", line 3, in beside\n'
    )


def _call(file: str, line: int, function: str) -> str:
    source = linecache.getline(file, line).strip()
    return f'  File "{file}", line {line}, in {function}\n' + (f"    {source}\n" if source else "")


def test_a_rank_outside_the_function_is_said_to_be_there():
    text = readable(f"Current thread 0x1 (most recent call first):\n{LAUNCHER}")
    assert text == "Main thread (most recent call last):\n  in the launcher, before or after the function\n"


def test_every_question_gets_its_own_answer():
    sent: list[int] = []
    everybody = threading.Barrier(3)
    answers: dict[int, object] = {}

    def send(number: int) -> None:
        sent.append(number)
        everybody.wait(30)

    questions = StackQuestions(send)

    def ask() -> None:
        answer = questions.ask(30)
        assert answer is not None
        answers[answer.number] = answer.stacks[0]

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    everybody.wait(30)
    for number in sorted(sent, reverse=True):
        questions.take(Stacks(number, {0: f"stack {number}"}, {}, {}))
    for thread in threads:
        thread.join()
    assert answers == {number: f"stack {number}" for number in sent}


def test_nobody_waits_after_the_end():
    questions = StackQuestions(lambda _: questions.close())
    assert questions.ask(30) is None, "it ends while somebody waits"
    assert questions.closed
    assert questions.ask(30) is None


def test_an_answer_that_comes_too_late_is_dropped():
    sent: list[int] = []
    questions = StackQuestions(sent.append)
    assert questions.ask(0.0) is None
    questions.take(Stacks(sent[0], {}, {}, {}))
    assert questions._answers == {}
