"""The one thing a rank knows about itself from outside: its world, the run's precision, and its backend."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from notebook_accel import environment
from notebook_accel.backends.base import ANY_GROUP, Backend, GroupOptions
from notebook_accel.backends.registry import choose
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.exchange import Exchange
from notebook_accel.errors import ConfigError, NotInWorkerError
from notebook_accel.world import DeviceKind, World

Log = Callable[[Mapping[str, Any], int | None], None]


class Runtime:
    """This process's part of a run. Read-only.

    Args:
        world: this process's place in the run.
        mixed_precision: what an ``Accelerator`` uses that is not told otherwise.
        log: takes values that the function logs, by name, and the step; None where nobody listens.
        asked_to_stop: whether this process was asked to end by itself; None where nobody can ask.
        resumes: the run is to go on from a checkpoint.

    Example:
        >>> Runtime(World()).backend.name
        'single'
    """

    def __init__(
        self,
        world: World,
        mixed_precision: str = "no",
        log: Log | None = None,
        asked_to_stop: Callable[[], bool] | None = None,
        *,
        resumes: bool = False,
    ) -> None:
        self._world = world
        self._log = log
        self._mixed_precision = mixed_precision
        self._asked_to_stop = asked_to_stop
        self._resumes = resumes
        self._at_end: list[Callable[[], None]] = []
        self._after_failure: list[Callable[[], None]] = []
        self._backend: Backend | None = None
        self._options = ANY_GROUP
        self._exchange: Exchange | None = None
        self._watch = EpochWatch()

    @property
    def watch(self) -> EpochWatch:
        """The passes that this process is in, whichever ``Accelerator`` prepared the loaders."""
        return self._watch

    @property
    def world(self) -> World:
        """This process's place in the run."""
        return self._world

    @property
    def mixed_precision(self) -> str:
        """The precision that the run was started with."""
        return self._mixed_precision

    def log(self, values: Mapping[str, Any], step: int | None) -> None:
        """Hand values over to whoever started the run; nowhere in a script."""
        if self._log is not None:
            self._log(values, step)

    @property
    def asked_to_stop(self) -> Callable[[], bool] | None:
        """Whether this process was asked to end by itself; None where nobody can ask."""
        return self._asked_to_stop

    @property
    def resumes(self) -> bool:
        """Whether the run is to go on from a checkpoint: it was asked to, or is started again after a failure."""
        return self._resumes or self._world.restart_count > 0

    def at_end(self, finish: Callable[[], None]) -> Callable[[], None]:
        """Call ``finish`` when the launched function has returned, or the script ends; give what takes that back."""
        self._at_end.append(finish)
        return lambda: self._at_end.remove(finish) if finish in self._at_end else None

    def at_any_end(self, finish: Callable[[], None]) -> None:
        """Call ``finish`` also when the launched function has raised; it must not wait for other ranks."""
        self._at_end.append(finish)
        self._after_failure.append(finish)

    def finish(self) -> None:
        """Wait for what still goes on; safe to call twice."""
        while self._at_end:
            self._at_end.pop()()

    def give_up(self) -> None:
        """Hand over what a function that has raised leaves behind, as far as that still goes."""
        while self._after_failure:
            with suppress(Exception):  # the function's own error says more
                self._after_failure.pop()()

    @property
    def backend(self) -> Backend:
        """The connection to the other ranks, made when first read. Collective: all ranks must read it.

        A function that never asks for it may call ``torch.distributed.init_process_group`` itself, and one that did
        so before keeps its group.

        Raises:
            ConfigError: there is no such device, or an existing process group is not this run's.
        """
        return self.connect(ANY_GROUP)

    def connect(self, options: GroupOptions) -> Backend:
        """Give the connection to the other ranks, made in a certain way. Collective: all ranks must call this.

        Args:
            options: how the ranks are joined; what is left open takes any way.

        Raises:
            ConfigError: there is no such device, an existing process group is not this run's, or the ranks are joined
                already and the options ask for something else.
        """
        if self._backend is None:
            backend = choose(self._world, options.engine)
            backend.setup(options)
            self._backend, self._options = backend, options
        elif options not in (ANY_GROUP, self._options):
            what = f"rank {self._world.rank}: the ranks are joined already, with {self._options}, not with {options}"
            raise ConfigError(what, "give InitProcessGroupKwargs to the first Accelerator, or leave it out")
        return self._backend

    @property
    def exchange(self) -> Exchange:
        """What carries structures of tensors. Collective: all ranks must read it, as ``backend``."""
        if self._exchange is None:
            self._exchange = Exchange(self.backend, debug=environment.debug_requested())
        return self._exchange

    def close(self) -> None:
        """Finish, and disconnect from the other ranks, if connected; safe to call twice."""
        self.finish()
        backend, self._backend, self._exchange = self._backend, None, None
        if backend is not None:
            backend.teardown()


class _Slot:
    runtime: Runtime | None = None


_SLOT = _Slot()


@contextmanager
def activate(runtime: Runtime) -> Iterator[Runtime]:
    """Make ``runtime`` the current one for a block; the one before comes back after it.

    Example:
        >>> with activate(Runtime(World())) as runtime:
        ...     current() is runtime
        True
    """
    before, _SLOT.runtime = _SLOT.runtime, runtime
    try:
        yield runtime
    finally:
        _SLOT.runtime = before


def active() -> Runtime | None:
    """Give the active runtime, None where there is none yet; nothing is built."""
    return _SLOT.runtime


def current(*, cpu: bool = False) -> Runtime:
    """Give the active runtime; in a script without one, build it from torchrun's variables and keep it.

    Args:
        cpu: compute on the CPU even where there is an accelerator.

    Raises:
        NotInWorkerError: called in a notebook kernel outside a launched function.
        ConfigError: ``cpu`` is asked for in a run that computes on something else.
    """
    if _SLOT.runtime is None:
        if environment.in_notebook_kernel():
            raise NotInWorkerError
        _SLOT.runtime = _from_environment(cpu=cpu)
        atexit.register(_SLOT.runtime.close)
    runtime = _SLOT.runtime
    if cpu and runtime.world.device_kind != "cpu":
        what = f"cpu=True on rank {runtime.world.rank} of a run that computes on {runtime.world.device_kind}"
        raise ConfigError(what, "choose the CPU when the run starts: devices='cpu', or ACCELERATE_USE_CPU=true")
    return runtime


def _from_environment(*, cpu: bool) -> Runtime:
    world = environment.world_from_environment() or World()
    kind = "cpu" if cpu or environment.cpu_requested() else _best_device_kind(world)
    return Runtime(replace(world, device_kind=kind), environment.precision_from_environment())


def _best_device_kind(world: World) -> DeviceKind:
    if torch.cuda.is_available():
        return "cuda"
    # Nothing carries messages between processes on Apple's GPU, so several ranks compute on the CPU.
    return "mps" if world.world_size == 1 and torch.backends.mps.is_available() else "cpu"
