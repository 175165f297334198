"""Drive a real Jupyter kernel: run cells, read what they print, interrupt and kill it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import psutil
from jupyter_client.manager import KernelManager

CELL_SECONDS = 90


@dataclass
class Reply:
    """What a cell did."""

    text: str = ""
    error_name: str | None = None
    error_text: str = ""
    shown: list[str] = field(default_factory=list)
    bundles: list[dict[str, Any]] = field(default_factory=list)
    updates: list[bool] = field(default_factory=list)
    order: list[tuple[str, str]] = field(default_factory=list)

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Take in something rich."""
        text = data.get("text/plain", "")
        self.order.append((kind, text))
        if kind != "update_display_data":
            self.shown.append(text)
        if kind != "execute_result":
            self.bundles.append(data)
            self.updates.append(kind == "update_display_data")


class Notebook:
    """One kernel with the cells that are run in it."""

    def __init__(self, folder: str, variables: dict[str, str] | None = None) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=folder, env={**os.environ, **(variables or {})})
        self.client = self.manager.blocking_client()
        self.client.start_channels(hb=False)  # it opens another socket when the kernel is slow to answer
        self.client.wait_for_ready(timeout=CELL_SECONDS)
        self.pid = int(self.run("import os; print(os.getpid())").text)

    def run(self, code: str, while_running: Callable[[str], None] | None = None) -> Reply:
        """Run a cell to its end; ``while_running`` is told the text so far each time some arrives."""
        request = self.client.execute(code)
        reply = Reply()
        deadline = time.monotonic() + CELL_SECONDS
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            content: dict[str, Any] = message["content"]
            kind = message["msg_type"]
            if kind == "stream":
                reply.text += content["text"]
                reply.order.append((kind, content["text"]))
                if while_running is not None:
                    while_running(reply.text)
            elif kind in {"execute_result", "display_data", "update_display_data"}:
                reply.take(kind, content["data"])
            elif kind == "error":
                reply.error_name = content["ename"]
                reply.error_text = "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                # For a moment after an error, old kernels throw away what is sent: cells that were queued behind it.
                return self.run(code, while_running) if self._status(request) == "aborted" else reply
        raise TimeoutError(f"the cell did not end in {CELL_SECONDS} s; it printed:\n{reply.text}")

    def _status(self, request: str) -> str:
        while True:
            answer = self.client.get_shell_msg(timeout=CELL_SECONDS)
            if answer["parent_header"].get("msg_id") == request:  # others are older
                status: str = answer["content"]["status"]
                return status

    def check(self, code: str) -> str:
        """Run a cell that must succeed; give what it printed."""
        reply = self.run(code)
        assert reply.error_name is None, reply.error_text
        return reply.text

    def interrupt(self) -> None:
        """Press stop."""
        self.manager.interrupt_kernel()

    def kill(self) -> None:
        """SIGKILL the kernel, and nothing but the kernel."""
        os.kill(self.pid, signal.SIGKILL)

    def descendants(self) -> list[psutil.Process]:
        """Every process below the kernel but Python's own, which lives as long as whoever has needed it once."""
        below = psutil.Process(self.pid).children(recursive=True)
        return [process for process in below if not _is_pythons_own(process)]

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.client.context.destroy(linger=0)
        self.manager.context.destroy(linger=0)


def _is_pythons_own(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def names(processes: list[psutil.Process]) -> list[str]:
    """The names of the living among ``processes``."""
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except psutil.NoSuchProcess:
            continue
    return sorted(found)
