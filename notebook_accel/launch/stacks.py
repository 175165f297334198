"""Where ranks are: the text that faulthandler wrote in them, read and made readable, and the asking for it."""

from __future__ import annotations

import linecache
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from notebook_accel.launch.bell import Bell
from notebook_accel.origins import cell_name
from notebook_accel.wire.control import Stacks

# "Stack" where the main thread alone was asked.
_THREAD = re.compile(r"^(?P<mark>Current thread|Thread|Stack)(?: (?P<name>0x.*?))? \(most recent call first\):$")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_WORKER = str(Path(__file__).resolve().parent.parent / "worker") + "/"
_CALLER_OF_FUNCTION = f"{_WORKER}rank.py"
_START_OF_THREAD = ("_bootstrap", "_bootstrap_inner")

SILENT = "it did not answer: it is still starting, or its process has been stopped"
_OUTSIDE = "in the launcher, before or after the function"


@dataclass(frozen=True)
class Frame:
    """One call.

    Attributes:
        file: the file of the code.
        line: its line there.
        function: the name of the function.
    """

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class ThreadStack:
    """Where one thread is.

    Attributes:
        name: how faulthandler calls it.
        is_main: True for the thread that called the function.
        frames: the calls that it is in, the innermost first, without those of the launcher.
    """

    name: str
    is_main: bool
    frames: tuple[Frame, ...]

    def as_written(self) -> str:
        """Give it in the form in which faulthandler writes."""
        lines = [f'  File "{frame.file}", line {frame.line} in {frame.function}\n' for frame in self.frames]
        return "".join(["Current thread 0x0 (most recent call first):\n", *lines])


def read(text: str) -> list[ThreadStack]:
    r"""Read what faulthandler wrote, the main thread first; a thread that answered twice counts as in its last answer.

    Args:
        text: one or more answers to the signal for stacks.

    Example:
        >>> [main] = read('Current thread 0x1 (most recent call first):\n  File "a.py", line 3 in train\n')
        >>> main.frames
        (Frame(file='a.py', line=3, function='train'),)
    """
    found: dict[str, tuple[bool, list[Frame]]] = {}
    frames: list[Frame] = []
    for line in text.splitlines():
        thread, frame = _THREAD.match(line), _FRAME.match(line)
        if thread is not None:
            frames = []
            name = thread["name"] or ""
            found.pop(name, None)
            found[name] = thread["mark"] != "Thread", frames
        elif frame is not None:
            frames.append(Frame(frame["file"], int(frame["line"]), frame["function"]))
    if found and not any(is_main for is_main, _ in found.values()):
        last = list(found)[-1]  # another thread has taken the signal; the oldest thread is written last
        found[last] = True, found[last][1]
    stacks = [ThreadStack(name, is_main, _within(frames)) for name, (is_main, frames) in found.items()]
    return sorted(stacks, key=lambda stack: not stack.is_main)


def _within(frames: list[Frame]) -> tuple[Frame, ...]:
    """Leave out the launcher: its calls around the function, and how a thread begins."""
    for depth, frame in enumerate(frames):
        if frame.file == _CALLER_OF_FUNCTION:
            frames = frames[:depth]
            break
    while frames and (frames[-1].function in _START_OF_THREAD or frames[-1].file.startswith(_WORKER)):
        frames = frames[:-1]
    return tuple(frames)


def main_thread(text: str) -> str:
    """Give the part of what faulthandler wrote that is the main thread's within the function."""
    stacks = read(text)
    return stacks[0].as_written() if stacks else ""


def readable(text: str) -> str:
    """Write where a rank is as Python writes tracebacks, with the lines of the code that is known here.

    Args:
        text: what faulthandler wrote.
    """
    stacks = [stack for stack in read(text) if stack.frames or stack.is_main]
    if not stacks:
        return SILENT
    parts = []
    for stack in stacks:
        title = "Main thread" if stack.is_main else f"Thread {stack.name}"
        calls = [_readable_call(frame) for frame in reversed(stack.frames)] or [f"  {_OUTSIDE}\n"]
        parts.append("".join([f"{title} (most recent call last):\n", *calls]))
    return "\n".join(parts)


def _readable_call(frame: Frame) -> str:
    source = linecache.getline(frame.file, frame.line).strip()
    call = f'  File "{cell_name(frame.file) or frame.file}", line {frame.line}, in {frame.function}\n'
    return f"{call}    {source}\n" if source else call


class StackQuestions:
    """Questions to a supervisor that wait for their answers; any number of threads may ask.

    Args:
        send: sends an order to the supervisor.
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._changed = Bell()
        self._last_number = 0
        self._answers: dict[int, Stacks | None] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the run has ended."""
        return self._closed

    def ask(self, timeout_seconds: float) -> Stacks | None:
        """Ask and wait, at most so long; None where no answer came or the run has ended."""
        with self._lock:
            if self._closed:
                return None
            self._last_number += 1
            number = self._last_number
            self._answers[number] = None
        try:
            self._send(number)
            self._changed.wait_for(lambda: self._closed or self._answers[number] is not None, timeout_seconds)
        finally:
            with self._lock:
                answer = self._answers.pop(number)
        return answer

    def take(self, answer: Stacks) -> None:
        """Take an answer in; one that nobody waits for any more is dropped."""
        with self._lock:
            if answer.number in self._answers:
                self._answers[answer.number] = answer
        self._changed.ring()

    def close(self) -> None:
        """Let nobody wait any longer: the run has ended."""
        with self._lock:
            self._closed = True
        self._changed.ring()
