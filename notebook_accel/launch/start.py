"""From what was asked to a run: choose, claim, start, and follow it in the cell or leave it in the background."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from notebook_accel import environment
from notebook_accel.config import RunConfig, StartMethod
from notebook_accel.errors import ConfigError, RunInterrupted
from notebook_accel.hardware.probe import probe
from notebook_accel.launch.fork import ForkSpawner
from notebook_accel.launch.forkserver import ForkserverSpawner
from notebook_accel.launch.inline import InlineSpawner
from notebook_accel.launch.interrupts import CellInterrupted, interrupts_held
from notebook_accel.launch.job import Call
from notebook_accel.launch.ledger import Ledger
from notebook_accel.launch.modules import ModuleWatch
from notebook_accel.launch.panelled import PanelledView, panel_kind, show_in_background, summary_of
from notebook_accel.launch.plan import LaunchPlan, make_plan
from notebook_accel.launch.restart import RestartingRun
from notebook_accel.launch.result import RunResult
from notebook_accel.launch.run import Run
from notebook_accel.launch.screen import Screen
from notebook_accel.launch.spawn import SpawnSpawner
from notebook_accel.launch.spawner import Attempt, Spawner
from notebook_accel.launch.torch_tpu import TorchTpuSpawner
from notebook_accel.launch.view import View, view_here
from notebook_accel.launch.xla import XlaSpawner
from notebook_accel.world import DeviceKind

_SPAWNERS: dict[str, type[Spawner]] = {
    "fork": ForkSpawner,
    "forkserver": ForkserverSpawner,
    "inline": InlineSpawner,
    "spawn": SpawnSpawner,
}

_SPAWNERS_OF_DEVICES: dict[str, type[Spawner]] = {"xla": XlaSpawner, "tpu": TorchTpuSpawner}

_ledger = Ledger()
_modules = ModuleWatch()


def last_run() -> Run[Any] | None:
    r"""Give the run that was started last in this process, None before the first.

    Example:
        >>> from notebook_accel import last_run, notebook_launcher
        >>> _ = notebook_launcher(lambda: print("hello"), num_processes=1, start_method="inline")
        notebook_accel: 1 CPU process, in this process
        hello
        >>> last_run().logs(0)
        'hello\n'
    """
    return _ledger.last


def run_in_cell(config: RunConfig, call: Call) -> RunResult[Any]:
    """Run to the end in the foreground: say what runs, show the output, pass interrupts on."""
    started: list[Run[Any]] = []
    kind = panel_kind()
    try:
        run = _start(config, call, started)
        _show_until_end(run, view_here() if kind is None else PanelledView(run, kind))
    except BaseException:
        for run in started:
            run.kill()
        raise
    words = summary_of(run) if kind is None else None
    if words is not None:
        say(words)
    try:
        result = run.result()
    except RunInterrupted as interrupted:
        raise CellInterrupted(interrupted) from None
    for notice in run.notices():
        say(notice)
    return result


def start_in_background(config: RunConfig, call: Call) -> Run[Any]:
    """Start a run and leave it to itself."""
    if config.start_method == "inline":
        what = 'block=False has no meaning with start_method="inline", which runs in this process'
        raise ConfigError(what, "leave block out, or leave start_method out")
    kind = panel_kind()
    run = _start(config, call, [])
    if kind is not None:
        show_in_background(run, kind)
    return run


def plan_of(config: RunConfig) -> LaunchPlan:
    """Decide what a launch would do now, with the devices that no other run holds."""
    return make_plan(config, probe(), environment.requested_threads(), _ledger.holders())


def held_devices() -> frozenset[str]:
    """Give the selectors of the devices that runs hold."""
    return frozenset(_ledger.holders())


def _start(config: RunConfig, call: Call, started: list[Run[Any]]) -> Run[Any]:
    def announce(plan: LaunchPlan) -> None:
        say(str(plan))
        for notice in what_was_edited(config, plan.start_method, plan.device_kind):
            say(notice)

    run = launch(config, call, started=started, announce=announce)
    for notice in run.start_notices:
        say(notice)
    return run


def launch(
    config: RunConfig,
    call: Call,
    screen: Screen | None = None,
    started: list[Run[Any]] | None = None,
    announce: Callable[[LaunchPlan], None] | None = None,
) -> Run[Any]:
    """Choose devices that nobody holds and start a run on them.

    Args:
        config: what was asked.
        call: what every rank calls.
        screen: where what the ranks print goes; one of its own if left out.
        started: gets the run as soon as there is one, whatever interrupts the caller then.
        announce: called with what was decided, before anything is started.
    """
    in_this_process = config.start_method == "inline"  # other threads must not wait until it has ended
    with nullcontext() if in_this_process else _ledger.launching:
        plan = plan_of(config)
        if announce is not None:
            announce(plan)
        spawner = _SPAWNERS_OF_DEVICES.get(plan.device_kind, _SPAWNERS[plan.start_method])()
        attempt = Attempt(screen=screen or Screen(), run_id=config.run_id or uuid.uuid4().hex)
        job = spawner.pack(plan, call)
        with nullcontext() if in_this_process else interrupts_held():
            if config.max_restarts:
                run: Run[Any] = RestartingRun(spawner, plan, job, attempt, _ledger.launching)
            else:
                run = spawner.run(plan, job, attempt)
            _ledger.enter(run)
            if started is not None:
                started.append(run)
    return run


def _show_until_end(run: Run[Any], view: View) -> None:
    interrupts = obeyed = 0
    while True:
        try:
            while obeyed < interrupts:
                obeyed += 1
                if obeyed == 1:
                    run.interrupt()
                    say("interrupting the ranks; interrupt again to end them at once")
                else:
                    run.kill()
            run.show_into(view)
        except KeyboardInterrupt:
            interrupts += 1
        else:
            return


def what_was_edited(config: RunConfig, start_method: StartMethod, device_kind: DeviceKind = "cpu") -> list[str]:
    """Say which modules the ranks will have otherwise than the notebook has them.

    Args:
        config: what is asked for.
        start_method: how the ranks come to be.
        device_kind: what they compute on; what starts a device's ranks never forks this process, whatever it is called.
    """
    if start_method == "inline" or (start_method == "fork" and device_kind not in _SPAWNERS_OF_DEVICES):
        return []  # they have what the notebook has
    return _modules.notices(config.by_value)


def say(text: str) -> None:
    """Say something to the user in the launcher's name."""
    sys.stdout.write(f"notebook_accel: {text}\n")
