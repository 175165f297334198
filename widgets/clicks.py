"""Presses of buttons, let through to their panel while a cell runs.

A kernel deals with what comes from the page after the cell that runs. ipykernel 7 receives it in a thread of its own,
where it is looked at on its way; with ipykernel 6 whoever waits in the cell looks himself, and what is not for a panel
is kept for the kernel. Nothing of the user's is run meanwhile. Where neither can be done, the kernel's interrupt is
left, which works always.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from notebook_accel.launch.interrupts import interrupts_held
from notebook_accel.origins import shell

_DELIMITER = b"<IDS|MSG>"
_HEADER, _CONTENT = 2, 5  # places of the parts of a message, counted from the delimiter

Listener = Callable[[], None]


def pressed_button(frames: Sequence[Any]) -> str | None:
    """Give the comm of the button that a message says was pressed, None for any other message."""
    parts = [bytes(getattr(frame, "bytes", frame)) for frame in frames]
    start = parts.index(_DELIMITER)
    if json.loads(parts[start + _HEADER])["msg_type"] != "comm_msg":
        return None
    content = json.loads(parts[start + _CONTENT])
    said = content.get("data", {}).get("content", {})
    return str(content["comm_id"]) if isinstance(said, dict) and said.get("event") == "click" else None


class Clicks:
    """Knows the buttons of all panels of this kernel, and looks for their presses as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._listeners: dict[str, Listener] = {}
        self._told_early: dict[str, int] = {}  # presses that the kernel is going to tell of once more
        self._tapped: Any = None  # the kernel whose thread is looked over the shoulder
        self._kept: list[Any] = []

    def listen(self, listeners: dict[str, Listener]) -> None:
        """Call a listener when its button is pressed.

        Args:
            listeners: by the comm of the button; they are called in any thread and must not wait.
        """
        with self._lock:
            self._listeners.update(listeners)
            if self._tapped is None:
                self._tap()

    def forget(self, comms: Sequence[str]) -> None:
        """Look for these presses no more."""
        with self._lock:
            for comm in comms:
                self._listeners.pop(comm, None)
                self._told_early.pop(comm, None)
            if not self._listeners and self._tapped is not None:
                self._untap()

    def told(self, comm: str) -> None:
        """Take a press that the kernel itself tells of; one that was seen before does not count twice."""
        with self._lock:
            if self._told_early.get(comm, 0):
                self._told_early[comm] -= 1
                return
            listener = self._listeners.get(comm)
        if listener is not None:
            listener()

    def _take(self, frames: Sequence[Any], *, told_again: bool) -> bool:
        """Take a message if it is a press of one of our buttons."""
        with suppress(Exception):  # whatever it is, the kernel will know
            comm = pressed_button(frames)
            with self._lock:
                listener = self._listeners.get(comm) if comm is not None else None
                if listener is None or comm is None:
                    return False
                if told_again:
                    self._told_early[comm] = self._told_early.get(comm, 0) + 1
            listener()
            return True
        return False

    # ---- ipykernel 7: a thread receives

    def _tap(self) -> None:
        kernel = getattr(shell(), "kernel", None)
        thread = getattr(kernel, "shell_channel_thread", None)
        receive = getattr(kernel, "shell_channel_thread_main", None)
        if kernel is None or thread is None or receive is None:
            return

        async def receive_looked_at(message: Any) -> None:
            self._take(message, told_again=True)
            await receive(message)

        with suppress(Exception):  # a kernel made otherwise: the interrupt is left
            thread.io_loop.add_callback(lambda: kernel.shell_stream.on_recv(receive_looked_at, copy=False))
            self._tapped = kernel

    def _untap(self) -> None:
        kernel, self._tapped = self._tapped, None
        with suppress(Exception):  # the kernel is ending
            loop = kernel.shell_channel_thread.io_loop
            loop.add_callback(
                lambda: (
                    None
                    if self._tapped is not None
                    else kernel.shell_stream.on_recv(kernel.shell_channel_thread_main, copy=False)
                )
            )

    # ---- ipykernel 6: the main thread receives, which waits in the cell

    def must_be_pumped(self) -> bool:
        """Say whether presses are seen only where whoever waits looks for them."""
        kernel = getattr(shell(), "kernel", None)
        return (
            kernel is not None
            and getattr(kernel, "shell_channel_thread", None) is None
            and hasattr(kernel, "schedule_dispatch")
            and hasattr(getattr(kernel, "shell_stream", None), "socket")
            and threading.current_thread() is threading.main_thread()
        )

    def pump(self) -> None:
        """Look for presses; in the main thread, in which the kernel receives as well."""
        import zmq  # noqa: PLC0415 - a kernel has it loaded

        kernel = shell().kernel
        with interrupts_held():
            for _ in itertools.count():
                try:
                    message = kernel.shell_stream.socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.ZMQError:
                    return
                if not self._take(message, told_again=False):
                    self._kept.append(message)

    def hand_back(self) -> None:
        """Let the kernel have what came for it meanwhile, after the cell that runs."""
        import zmq  # noqa: PLC0415 - a kernel has it loaded

        kernel = shell().kernel
        with interrupts_held():
            kept, self._kept = self._kept, []
            for message in kept:
                kernel.schedule_dispatch(kernel.dispatch_shell, message)
            # What has come since lies in the socket, which has told of it already and will not again.
            kernel.io_loop.add_callback(lambda: kernel.shell_stream.flush(zmq.POLLIN))


clicks = Clicks()  # a kernel has one channel
