"""Who a rank is, and what only some of the ranks do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

from notebook_accel.backends.base import Backend

P = ParamSpec("P")
R = TypeVar("R")


class Processes:
    """Verbs about the ranks of the run.

    Attributes:
        _backend: the connection to the other ranks.
    """

    _backend: Backend

    @property
    def device(self) -> torch.device:
        """What this rank computes on."""
        return self._backend.device

    @property
    def num_processes(self) -> int:
        """Number of ranks."""
        return self._backend.world.world_size

    @property
    def attempt(self) -> int:
        """How often the run was started before, with ``max_restarts``: 0 in the first attempt.

        Example:
            >>> from notebook_accel import Accelerator
            >>> Accelerator(cpu=True).attempt
            0
        """
        return self._backend.world.restart_count

    @property
    def process_index(self) -> int:
        """This rank's 0-based number among all."""
        return self._backend.world.rank

    @property
    def local_process_index(self) -> int:
        """This rank's 0-based number on its machine."""
        return self._backend.world.local_rank

    @property
    def is_main_process(self) -> bool:
        """True on rank 0."""
        return self._backend.world.is_main

    @property
    def is_local_main_process(self) -> bool:
        """True on the first rank of each machine."""
        return self._backend.world.is_local_main

    @property
    def is_last_process(self) -> bool:
        """True on the highest rank."""
        return self.process_index == self.num_processes - 1

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once per machine. Takes what the builtin takes."""
        if self.is_local_main_process:
            print(*args, **kwargs)  # noqa: T201 - its purpose

    def wait_for_everyone(self) -> None:
        """Wait until every rank is here. Collective: all ranks must call this."""
        self._backend.barrier()

    def on_main_process(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Decorate ``function`` to run on rank 0 only; on the others it returns None.

        Example:
            >>> from notebook_accel import Accelerator
            >>> accelerator = Accelerator(cpu=True)
            >>> @accelerator.on_main_process
            ... def name():
            ...     return "main"
            >>> name()
            'main'
        """

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return function(*args, **kwargs) if self.is_main_process else None

        return guarded

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run a block on rank 0, then on all others. Collective: all ranks must enter it."""
        if not self.is_main_process:
            self._backend.barrier()
        try:
            yield
        finally:
            # Also when rank 0 fails: the others must not wait for it for ever.
            if self.is_main_process:
                self._backend.barrier()
