"""Who a rank is, and what only some of the ranks do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, overload

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.splitting import part_of
from notebook_accel.errors import ConfigError
from notebook_accel.world import DistributedType

P = ParamSpec("P")
R = TypeVar("R")
Guarded = Callable[P, R | None]


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
    def distributed_type(self) -> DistributedType:
        """What kind of ranks the run has."""
        return self._backend.world.distributed_type

    @property
    def num_processes(self) -> int:
        """Number of ranks."""
        return self._backend.world.world_size

    @property
    def process_index(self) -> int:
        """This rank's 0-based number among all."""
        return self._backend.world.rank

    @property
    def local_process_index(self) -> int:
        """This rank's 0-based number on its machine."""
        return self._backend.world.local_rank

    @property
    def use_distributed(self) -> bool:
        """True where there is more than one rank."""
        return self.num_processes > 1

    @property
    def multi_device(self) -> bool:
        """True where there is more than one rank, each with a device of its own."""
        return self.use_distributed and self.device.type != "cpu"

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

    @contextmanager
    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> Iterator[Any]:
        """Give this rank's part of ``inputs`` in a block: the first ranks get one more where it does not come out even.

        Args:
            inputs: a list, a tuple, a tensor, an array, a dataset that can be sliced, or a dict of such, all of one
                length.
            apply_padding: repeat the last element, so that all ranks get the same number.

        Raises:
            ConfigError: ``inputs`` has no parts, or the values of a dict differ in length.

        Example:
            >>> from notebook_accel import Accelerator
            >>> with Accelerator(cpu=True).split_between_processes(["a", "b"]) as part:
            ...     part
            ['a', 'b']
        """
        yield part_of(inputs, self.process_index, self.num_processes, pad=apply_padding)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run a block on rank 0, then on all others. Collective: all ranks must enter it."""
        with self._first(goes_first=self.is_main_process):
            yield

    @contextmanager
    def local_main_process_first(self) -> Iterator[None]:
        """Run a block on the first rank of each machine, then on all others. Collective: all ranks must enter it."""
        with self._first(goes_first=self.is_local_main_process):
            yield

    @contextmanager
    def _first(self, *, goes_first: bool) -> Iterator[None]:
        if not goes_first:
            self._backend.barrier()
        try:
            yield
        finally:
            # Also when that rank fails: the others must not wait for it for ever.
            if goes_first:
                self._backend.barrier()

    def on_main_process(self, function: Callable[P, R]) -> Guarded[P, R]:
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
        return _guarded(function, lambda: self.is_main_process)

    def on_local_main_process(self, function: Callable[P, R]) -> Guarded[P, R]:
        """Decorate ``function`` to run on the first rank of each machine only; on the others it returns None."""
        return _guarded(function, lambda: self.is_local_main_process)

    def on_last_process(self, function: Callable[P, R]) -> Guarded[P, R]:
        """Decorate ``function`` to run on the highest rank only; on the others it returns None."""
        return _guarded(function, lambda: self.is_last_process)

    @overload
    def on_process(self, function: Callable[P, R], process_index: int) -> Guarded[P, R]: ...

    @overload
    def on_process(self, function: None = None, *, process_index: int) -> Callable[[Callable[P, R]], Guarded[P, R]]: ...

    def on_process(self, function: Any = None, process_index: int | None = None) -> Any:
        """Decorate a function to run on one rank only; on the others it returns None.

        Args:
            function: what to decorate; left out where this is written as ``@accelerator.on_process(process_index=1)``.
            process_index: the rank.

        Raises:
            ConfigError: there is no such rank.
        """
        wanted = self._checked_index(process_index, self.num_processes, "process_index")
        decorate = functools.partial(_guarded, when=lambda: self.process_index == wanted)
        return decorate if function is None else decorate(function)

    @overload
    def on_local_process(self, function: Callable[P, R], local_process_index: int) -> Guarded[P, R]: ...

    @overload
    def on_local_process(
        self, function: None = None, *, local_process_index: int
    ) -> Callable[[Callable[P, R]], Guarded[P, R]]: ...

    def on_local_process(self, function: Any = None, local_process_index: int | None = None) -> Any:
        """Decorate a function to run on one rank of each machine only; on the others it returns None.

        Args:
            function: what to decorate; left out where this is written with parentheses.
            local_process_index: the rank on its machine.

        Raises:
            ConfigError: there is no such rank.
        """
        ranks = self._backend.world.local_world_size
        wanted = self._checked_index(local_process_index, ranks, "local_process_index")
        decorate = functools.partial(_guarded, when=lambda: self.local_process_index == wanted)
        return decorate if function is None else decorate(function)

    @staticmethod
    def _checked_index(index: int | None, ranks: int, name: str) -> int:
        if index is None or not 0 <= index < ranks:
            raise ConfigError(f"{name} is {index!r} in a run of {ranks}", f"use 0 to {ranks - 1}")
        return index


def _guarded(function: Callable[P, R], when: Callable[[], bool]) -> Guarded[P, R]:
    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return function(*args, **kwargs) if when() else None

    return guarded
