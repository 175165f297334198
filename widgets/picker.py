"""``HardwarePicker``: choose what a function runs on, see what is possible, and launch it."""

from __future__ import annotations

import importlib
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from notebook_accel.config import RunConfig, check_call
from notebook_accel.errors import AccelError, ConfigError
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.hardware.loads import CpuLoad, CpuReader, read_loads
from notebook_accel.hardware.probe import probe
from notebook_accel.launch.job import Call
from notebook_accel.launch.panelled import make_panel, panel_kind
from notebook_accel.launch.plan import LaunchPlan
from notebook_accel.launch.run import Run
from notebook_accel.launch.start import held_devices, launch, run_in_cell, start_in_background, what_was_edited
from notebook_accel.launch.view import publish

from .choices import Machine, first_choice, problem_of, restored
from .controls import Controls
from .ending import ending_html, notices_html, refusal_html
from .live import Refreshing, latest_few
from .remembered import Remembered
from .still import still_html
from .wording import code_of, picker_text

VIEW = "application/vnd.jupyter.widget-view+json"


class HardwarePicker:
    """Shows the hardware, lets people choose, and launches; it has a value before anybody does.

    As the last line of a cell it is shown. A notebook that is run without anybody looking on gets the same choice: what
    was chosen last in this notebook, where it is still possible, or else every device that is free.

    Args:
        function: what the Launch button launches; there is none without it.
        args: its positional arguments.
        kwargs: its keyword arguments.
        inventory: a machine to see in place of this one, such as ``Inventory.fake(gpus=4)``.
        config: what is chosen at first, in place of what was chosen last.

    Attributes:
        inventory: what is there.
        run: the run that the button or ``block=False`` started last, None before the first.

    Example:
        >>> from notebook_accel.hardware import Inventory
        >>> picker = HardwarePicker(inventory=Inventory.fake(gpus=4), config=RunConfig(devices=(1, 3)))
        >>> picker.code
        'notebook_launcher(train, devices=(1, 3))'
    """

    def __init__(
        self,
        function: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        inventory: Inventory | None = None,
        config: RunConfig | None = None,
    ) -> None:
        self._is_real = inventory is None
        self.inventory = probe() if inventory is None else inventory
        self.run: Run[Any] | None = None
        self._machine = self._looked_at()
        self._cpu = CpuReader()
        self._cpu_load = self._cpu_looked_at()
        self._remembered = Remembered.here() if self._is_real else Remembered.nowhere()
        self._config = self._begin_with(config)
        self._call: Call | None = None
        self._lock = threading.RLock()
        self._controls: Controls | None = None
        self._places: list[str] = []  # below the picker, for the panels of runs
        self._refreshing = Refreshing(self._refresh)
        if function is not None:
            self.bind(function, args, kwargs)

    def _begin_with(self, config: RunConfig | None) -> RunConfig:
        if config is not None:
            return config
        earlier = self._remembered.load()
        return first_choice(self._machine) if earlier is None else restored(earlier, self._machine)

    # ---- what is chosen

    @property
    def config(self) -> RunConfig:
        """What is chosen."""
        return self._config

    @config.setter
    def config(self, config: RunConfig) -> None:
        if not isinstance(config, RunConfig):
            raise ConfigError(f"config must be a RunConfig, not {config!r}", "for example RunConfig(num_processes=2)")
        with self._lock:
            self._config = config
            self._remembered.save(config)
            self._draw()

    @property
    def code(self) -> str:
        """The line of code that launches the same."""
        return code_of(self._config, self._call)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write what is chosen to a YAML file; see ``RunConfig.save``."""
        self._config.save(file)

    def load(self, file: str | os.PathLike[str]) -> HardwarePicker:
        """Choose what a YAML file says; see ``RunConfig.load``.

        Raises:
            ConfigError: the file makes no sense.
        """
        self.config = RunConfig.load(file)
        return self

    # ---- launching

    def bind(
        self, function: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> HardwarePicker:
        """Name what the Launch button launches.

        Args:
            function: what every rank calls.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Raises:
            ConfigError: it cannot be called so.
        """
        check_call(function, args, kwargs)
        with self._lock:
            self._call = Call(function, args, dict(kwargs or {}))
            self._draw()
        return self

    def launch(
        self,
        function: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        block: bool = True,
    ) -> Any:
        """Run a function on what is chosen.

        Args:
            function: what every rank calls; what was bound if left out.
            args: its positional arguments.
            kwargs: its keyword arguments.
            block: False gives a ``Run`` at once, which goes on in the background.

        Returns:
            A ``RunResult``, or with ``block=False`` a ``Run``.

        Raises:
            ConfigError, NotAvailableError, PayloadError, RankFailed, LaunchError, KeyboardInterrupt: as
                ``notebook_launcher``.
        """
        call = self._call
        if function is not None:
            check_call(function, args, kwargs)
            call = Call(function, args, dict(kwargs or {}))
        if call is None:
            raise ConfigError("there is nothing to launch", "picker.launch(train, args=(...,)), or picker.bind(train)")
        if block:
            return run_in_cell(self._config, call)
        self.run = start_in_background(self._config, call)
        return self.run

    def _pressed(self) -> None:
        """Launch what is bound, and show its panel below the picker: a button has no cell of its own."""
        with self._lock:
            if self._call is None or self._is_running:
                return
            notices: list[str] = []

            def announce(plan: LaunchPlan) -> None:
                notices.extend(what_was_edited(self._config, plan.start_method, plan.device_kind))

            try:
                self.run = run = launch(self._config, self._call, announce=announce)
            except AccelError as error:
                self._say(refusal_html(error))
                return
            self._say(notices_html([*notices, *run.start_notices]))
            self._draw_button()
            panel = make_panel(run, "widgets")
            if panel is not None:
                for place in self._places:
                    panel.open(place)
        run.when_ended(lambda: self._run_ended(run))

    def _run_ended(self, run: Run[Any]) -> None:
        with self._lock:
            if run is self.run:
                self._say(ending_html(run))
                self._draw_button()

    @property
    def _is_running(self) -> bool:
        return self.run is not None and self.run.state == "running"

    # ---- what is there

    def _looked_at(self) -> Machine:
        if self._is_real:
            return Machine(self.inventory, read_loads(self.inventory.devices), held_devices())
        return Machine(self.inventory, self.inventory.loads)

    def _cpu_looked_at(self) -> CpuLoad:
        return self._cpu.read() if self._is_real else CpuLoad()

    def refresh(self) -> None:
        """Look at the hardware now."""
        if self._is_real:
            inventory = probe()
            if len(inventory.devices) == len(self.inventory.devices):  # the cards stay what they are
                self.inventory = inventory
        machine, cpu_load = self._looked_at(), self._cpu_looked_at()
        with self._lock:
            self._machine, self._cpu_load = machine, cpu_load
            self._draw()

    def _refresh(self) -> bool:
        if self._controls is None or self._controls.root.comm is None:
            return False  # closed, by us or by somebody who closed all widgets
        self.refresh()
        return True

    # ---- showing

    def _draw(self) -> None:
        if self._controls is not None:
            self._controls.draw(self._config, self._machine, self._call, self._cpu_load)
            self._draw_button()

    def _draw_button(self) -> None:
        if self._controls is not None:
            # A function in this process would print into no cell.
            can_launch = not problem_of(self._config, self._machine) and self._config.start_method != "inline"
            self._controls.draw_button(is_bound=self._call is not None, can_launch=can_launch and not self._is_running)

    def _choose(self, config: RunConfig) -> None:
        self.config = config
        if self._controls is not None:
            latest_few.start(self._refreshing)

    def _widget(self) -> Any | None:
        """Give the widget, made when it is first shown; None where ipywidgets is not there."""
        with self._lock:
            if self._controls is None:
                try:
                    kit = importlib.import_module("ipywidgets")
                except ImportError:
                    return None
                self._controls = Controls(kit, self._machine, self._choose, self._pressed)
                self._draw()
            latest_few.start(self._refreshing)
            return self._controls.root

    def _say(self, drawn: str) -> None:
        with suppress(Exception):  # closed meanwhile; the run goes on
            if self._controls is not None:
                self._controls.run.value = drawn

    def __repr__(self) -> str:
        """Say in text what the picker shows."""
        return picker_text(self._config, self._machine, self._call)

    def _repr_mimebundle_(self, **_kwargs: object) -> dict[str, Any]:
        """Show widgets, HTML or text, as NOTEBOOK_ACCEL_UI says or the front end can."""
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        kind = panel_kind()
        if kind == "html":
            return {**bundle, "text/html": still_html(self._config, self._machine, self._call, self._cpu_load)}
        root = self._widget() if kind == "widgets" else None
        if root is not None:
            view = {"version_major": 2, "version_minor": 0, "model_id": root.model_id}
            bundle[VIEW] = view
        return bundle

    def _ipython_display_(self) -> None:
        """Show it as the last line of a cell or by ``display``, with a place below for the panels of its runs."""
        bundle = self._repr_mimebundle_()
        publish(bundle, {}, f"notebook_accel-{uuid.uuid4().hex}", update=False)
        if self._controls is not None and VIEW in bundle:
            place = f"notebook_accel-{uuid.uuid4().hex}"
            publish({"text/html": "", "text/plain": ""}, {}, place, update=False)
            with self._lock:
                self._places.append(place)

    def close(self) -> None:
        """Take the picker off every page, and end what looks at the hardware for it; what it launched goes on."""
        latest_few.stop(self._refreshing)
        with self._lock:
            controls, self._controls = self._controls, None
        if controls is not None:
            controls.close()
