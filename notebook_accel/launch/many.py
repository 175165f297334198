"""``launch_map``: one run for each of many items, queued over the devices that are free."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, TypeVar

from notebook_accel.config import DeviceChoice, Precision, RunConfig, StartMethod, check_call
from notebook_accel.errors import AccelError, ConfigError
from notebook_accel.launch.job import Call
from notebook_accel.launch.map_result import MapResult
from notebook_accel.launch.result import RunResult
from notebook_accel.launch.run import Run
from notebook_accel.launch.screen import Screen
from notebook_accel.launch.share import share
from notebook_accel.launch.slots import Slots
from notebook_accel.launch.start import launch, say, what_was_edited
from notebook_accel.launch.view import view_here

R = TypeVar("R")

_PATIENCE_SECONDS = 0.5  # between looks at devices that runs of others hold


def launch_map(  # noqa: PLR0913 - the options of a launch
    function: Callable[..., R],
    items: Iterable[Any],
    devices_per_run: int = 1,
    *,
    kwargs: Mapping[str, Any] | None = None,
    mixed_precision: Precision = "no",
    start_method: StartMethod | None = None,
    devices: DeviceChoice | Sequence[int] = "auto",
    preload: Sequence[str] = (),
    seed: int | None = None,
    threads_per_rank: int | None = None,
    by_value: Sequence[str | ModuleType] = (),
    timeout_seconds: float | None = None,
    max_restarts: int = 0,
) -> MapResult[R]:
    """Call a function with each item, every call a run of its own, as many at a time as there are devices.

    For the folds of a cross-validation or the points of a sweep. Each run has ``devices_per_run`` ranks with a GPU
    each, or CPU ranks where there is no GPU. An item that fails costs the others nothing.

    Args:
        function: what every rank of a run calls, with the item as its argument; rank 0's value is kept.
        items: the arguments, one for each run.
        devices_per_run: ranks, and GPUs, of each run.
        kwargs: keyword arguments, the same for all items.
        mixed_precision: as in ``notebook_launcher``.
        start_method: as in ``notebook_launcher``, except "inline".
        devices: the devices to queue over, as in ``notebook_launcher``.
        preload: as in ``notebook_launcher``.
        seed: as in ``notebook_launcher``, the same for all items.
        threads_per_rank: as in ``notebook_launcher``; None divides the cores among the ranks that run at a time.
        by_value: as in ``notebook_launcher``.
        timeout_seconds: wall clock of each run; one that takes longer counts as failed.
        max_restarts: how often each run is started again when it fails.

    Returns:
        A ``MapResult``: ``[i]`` is the value for item i, or raises what went wrong with it; ``.failures`` lists that.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        PayloadError: the function cannot travel; nothing was started.
        KeyboardInterrupt: interrupted; ``error.result`` is the ``MapResult`` with what had returned by then.

    Example:
        >>> from notebook_accel import launch_map
        >>> results = launch_map(lambda x: x * x, [1, 2, 3])
        notebook_accel: <lambda> for 3 items, ... at a time on 1 CPU each
        >>> list(results)
        [1, 4, 9]
    """
    check_call(function, (), kwargs)
    config = RunConfig(
        num_processes=devices_per_run,
        mixed_precision=mixed_precision,
        start_method=start_method,
        devices=devices,  # type: ignore[arg-type]  # checked and made a tuple there
        preload=preload,  # type: ignore[arg-type]  # checked and made a tuple there
        seed=seed,
        threads_per_rank=threads_per_rank,
        by_value=by_value,  # type: ignore[arg-type]  # checked and made a tuple of names there
        returns="rank0",
        timeout_seconds=timeout_seconds,
        max_restarts=max_restarts,
    )
    if config.start_method == "inline":
        raise ConfigError('start_method="inline" runs one function at a time', "write a loop, or leave it out")
    return _Map(config, function, dict(kwargs or {}), tuple(items)).do()


class _Map:
    """The items of one map, on their way from waiting over running to done."""

    def __init__(
        self, config: RunConfig, function: Callable[..., Any], kwargs: dict[str, Any], items: tuple[Any, ...]
    ) -> None:
        self._config = config
        self._items = items
        self._kwargs = kwargs
        self._slots = Slots(config)
        # Pickled once, however many items there are; a fork of this process needs no pickle.
        self._shared = None if self._slots.start_method == "fork" else share(function, by_value=config.by_value)
        self._function = function if self._shared is None else self._shared
        self._name = Call(function).name
        self._waiting = deque(range(len(items)))
        self._running: dict[int, Run[Any]] = {}
        self._results: list[RunResult[Any] | None] = [None] * len(items)
        self._errors: list[AccelError | None] = [None] * len(items)
        self._said: set[str] = set()
        self._screen = Screen()
        self._view = view_here()

    def do(self) -> MapResult[Any]:
        """Do all of it; whatever leaves early brings along what there is by then."""
        from tqdm.auto import tqdm  # noqa: PLC0415 - it looks for a notebook, which takes a moment

        say(f"{self._name} for {len(self._items)} items, {self._slots}")
        self._say_what_was_edited()
        started_at = time.monotonic()
        try:
            with tqdm(total=len(self._items), desc=self._name, unit="item") as bar:
                self._go_on(bar)
        except BaseException as error:
            for run in self._running.values():
                run.kill()
            error.result = self._result(started_at)  # type: ignore[attr-defined]  # for whoever catches it
            raise
        finally:
            self._view.finish()
            if self._shared is not None:
                self._shared.free()
        return self._result(started_at)

    def _result(self, started_at: float) -> MapResult[Any]:
        elapsed_seconds = time.monotonic() - started_at
        return MapResult(self._items, tuple(self._results), tuple(self._errors), elapsed_seconds)

    def _go_on(self, bar: Any) -> None:
        """Start, show and take until nothing is left, or the user has interrupted and every run has ended."""
        interrupts = obeyed = 0
        while self._running or (self._waiting and not interrupts):
            try:
                while obeyed < interrupts:
                    obeyed += 1
                    self._stop(at_once=obeyed > 1)
                if not interrupts:
                    self._start_more()
                self._show_and_take(bar)
            except KeyboardInterrupt:
                interrupts += 1
        if interrupts:
            returned = sum(result is not None for result in self._results)
            say(f"{returned} of {len(self._items)} items had returned: sys.last_value.result has them")
            raise KeyboardInterrupt(f"launch_map of {self._name} was interrupted")

    def _stop(self, *, at_once: bool) -> None:
        for run in self._running.values():
            if at_once:
                run.kill()
            else:
                run.interrupt()
        say("interrupting the runs; interrupt again to end them at once")

    def _start_more(self) -> None:
        """Start what there is room for."""
        while self._waiting and (config := self._slots.next(len(self._running))) is not None:
            index = self._waiting[0]
            label = f"[{index}] " if self._config.num_processes == 1 else f"[{index}.${{rank}}] "
            call = Call(self._function, (self._items[index],), self._kwargs)
            started: list[Run[Any]] = []
            try:
                run = launch(replace(config, log_prefix=label), call, self._screen, started)
                self._say_what_was_edited()
                self._say_once(run.start_notices, f"item {index}: ")
            except ConfigError:
                if self._slots.next(len(self._running)) is not None:  # not because somebody else took the device
                    raise
            except AccelError as error:  # this item's own
                self._waiting.popleft()
                self._errors[index] = error
                self._screen.nudge()
            finally:
                if started:
                    self._running[index] = started[0]
                    self._waiting.popleft()

    def _say_what_was_edited(self) -> None:
        self._say_once(what_was_edited(self._config, self._slots.start_method))

    def _say_once(self, notices: Iterable[str], about: str = "") -> None:
        """Say what was not said about an earlier item."""
        for notice in notices:
            if notice not in self._said:
                self._said.add(notice)
                say(f"{about}{notice}")

    def _show_and_take(self, bar: Any) -> None:
        """Show what is printed until a run has ended, and take what it brings."""
        self._screen.wait(None if self._running else _PATIENCE_SECONDS)
        self._view.draw_from(self._screen)
        for index, run in list(self._running.items()):
            if run.state != "running":
                self._take(index, run)
                del self._running[index]
        self._view.draw_from(self._screen)
        failed = sum(error is not None for error in self._errors)
        bar.set_postfix({"running": len(self._running), "failed": failed}, refresh=False)
        bar.update(sum(map(self._is_done, range(len(self._items)))) - bar.n)

    def _take(self, index: int, run: Run[Any]) -> None:
        try:
            self._results[index] = run.result()
        except AccelError as error:
            self._errors[index] = error
        for notice in run.notices():
            say(f"item {index}: {notice}")

    def _is_done(self, index: int) -> bool:
        return self._results[index] is not None or self._errors[index] is not None
