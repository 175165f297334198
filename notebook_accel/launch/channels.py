"""What the kernel opens before a run starts: the store's socket, and each rank's pipe, socket and result file."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass

from notebook_accel.errors import ConfigError
from notebook_accel.launch.follower import KernelEnds
from notebook_accel.launch.output import label_of
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.screen import Source
from notebook_accel.wire import parcel

_PORT_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Channels:
    """The channels of one run.

    Attributes:
        port: where the store will be.
        control: our end of the socket to the supervisor.
        supervisor_end: its other end.
        ranks: our ends of each rank's channels.
        theirs: descriptors for the supervisor: the store's socket, then the other ends, rank by rank.
    """

    port: int
    control: socket.socket
    supervisor_end: socket.socket
    ranks: list[KernelEnds]
    theirs: list[int]

    @classmethod
    def open(cls, plan: LaunchPlan, run: str) -> Channels:
        """Open everything, or nothing.

        Args:
            plan: what was decided.
            run: the run's name.

        Raises:
            ConfigError: the port that was asked for cannot be opened.
            OSError: this process may open no more files.
        """
        with ExitStack() as undo:
            control, supervisor_end = socket.socketpair()
            undo.callback(control.close)
            undo.callback(supervisor_end.close)
            listener = _listen(plan.config.port, plan.world_size)
            port = listener.getsockname()[1]
            theirs = [listener.detach()]
            undo.callback(os.close, theirs[0])
            ranks: list[KernelEnds] = []
            for rank in range(plan.world_size):
                label = label_of(rank, plan.config.log_prefix)
                ends, others = _open_rank(Source(run, rank, plan.world_size, label), is_shown=plan.config.shows(rank))
                undo.callback(ends.close)
                for descriptor in others[:2]:
                    undo.callback(os.close, descriptor)
                ranks.append(ends)
                theirs += others
            undo.pop_all()
        return cls(port, control, supervisor_end, ranks, theirs)

    def close_theirs(self) -> None:
        """Close what the supervisor has copies of by now."""
        self.supervisor_end.close()
        result_files = {rank.result_file for rank in self.ranks}
        for descriptor in self.theirs:
            if descriptor not in result_files:
                os.close(descriptor)

    def close_ours(self) -> None:
        """Close our ends."""
        self.control.close()
        for rank in self.ranks:
            rank.close()

    def our_descriptors(self) -> list[int]:
        """Give what a copy of this process should close."""
        ends = [end for rank in self.ranks for end in (rank.output_end, rank.events.fileno())]
        return [self.control.fileno(), *ends]


def _listen(port: int, world_size: int) -> socket.socket:
    """Open the store's socket before any rank starts: nobody has to guess a port, and nobody can take it meanwhile."""
    deadline = time.monotonic() + _PORT_PATIENCE_SECONDS
    while True:
        try:
            return socket.create_server(("127.0.0.1", port), backlog=max(128, 2 * world_size))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(0.01)  # the supervisor of the run before may still be ending
                continue
            raise ConfigError(f"use_port={port}: port {port} cannot be opened: {error}", "leave use_port out") from None


def _open_rank(source: Source, *, is_shown: bool) -> tuple[KernelEnds, list[int]]:
    """Give our ends of one rank's channels, and the descriptors that the rank gets."""
    with ExitStack() as undo:
        read_end, write_end = os.pipe()
        undo.callback(os.close, read_end)
        undo.callback(os.close, write_end)
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        undo.callback(theirs.close)
        result_file = parcel.anonymous_file(f"result{source.rank}")
        undo.callback(os.close, result_file)
        ends = KernelEnds(source, read_end, ours, result_file, is_shown=is_shown)
        undo.pop_all()
    return ends, [write_end, theirs.detach(), result_file]
