from __future__ import annotations

import faulthandler
import json
import linecache
import os
import tempfile
import threading
from collections.abc import Callable

import pytest

from notebook_accel.launch.places import place_of

FILE = os.path.basename(__file__)


def dump() -> str:
    """Give what faulthandler writes of the current thread."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=False)
        return os.pread(file.fileno(), 1 << 16, 0).decode()


def line_of(text: str) -> int:
    """Find the line of this file that is a text."""
    with open(__file__) as file:
        return next(number for number, line in enumerate(file, 1) if line.strip() == text)


def in_a_thread(function: Callable[[], object]) -> None:
    """Call a function where only the standard library called it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_the_innermost_line_of_the_users_own_code():
    found = []

    def train():
        found.append(dump())  # within train

    in_a_thread(train)
    assert place_of(found[0]).startswith(f"in dump ({FILE}, line "), "dump is the user's here"
    without_dump = found[0].replace(found[0].splitlines()[1] + "\n", "")
    line = "found.append(dump())  # within train"
    assert place_of(without_dump) == f"in train ({FILE}, line {line_of(line)}): {line}"


def test_frames_of_libraries_are_skipped():
    found = []

    class Telling(dict):
        def items(self):
            found.append(cell["dump"]())
            return super().items()

    cell: dict[str, object] = {"json": json, "value": Telling(a=1)}
    code = "import faulthandler, tempfile, os\n" + "def train():\n    return json.dumps([value], indent=1)\n"
    exec(compile(code, "<cell 1>", "exec"), cell)
    cell["dump"] = dump
    in_a_thread(cell["train"])
    lines = found[0].splitlines(keepends=True)
    assert any("json" in line for line in lines), "the library is on the way"
    from_library = "".join(line for line in lines if FILE not in line)
    assert place_of(from_library) == "in train (<cell 1>, line 3)"


def test_a_cells_line_is_shown_where_its_source_is_known():
    found: list[str] = []
    name = "<cell of a test>"
    source = "def train():\n    speak()\n    x = dump()  ;  found.append(x)\n"
    cell = {"dump": dump, "found": found, "speak": lambda: None}
    exec(compile(source, name, "exec"), cell)
    in_a_thread(cell["train"])
    stack = "".join(line for line in found[0].splitlines(keepends=True) if FILE not in line)
    assert place_of(stack) == f"in train ({name}, line 3)"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        assert place_of(stack) == f"in train ({name}, line 3): x = dump()  ;  found.append(x)"
    finally:
        del linecache.cache[name]


def test_a_stack_of_libraries_alone_is_the_launchers():
    stack = "Current thread 0x00007f (most recent call first):\n"
    for function in (threading.Thread.run, place_of):
        code = function.__code__
        stack += f'  File "{code.co_filename}", line {code.co_firstlineno} in {code.co_name}\n'
    stack += '  File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed\n'
    assert place_of(stack) == "in the launcher, before or after the function"


@pytest.mark.parametrize("nothing", ["", "\n", "Current thread 0x00007f (most recent call first):\n", "Fatal error\n"])
def test_a_rank_that_wrote_nothing_did_not_say(nothing: str):
    assert place_of(nothing) == "it did not say where"
