"""The picker's widgets: core ipywidgets of versions 7 and 8, arranged and kept as the choice says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from notebook_accel.config import RunConfig
from notebook_accel.errors import AccelError
from notebook_accel.hardware.loads import CpuLoad
from notebook_accel.launch.job import Call

from .cards import (
    code_html,
    cpu_html,
    device_html,
    head_html,
    label_html,
    note_html,
    remarks_html,
    verdict_html,
)
from .choices import (
    MOST_RANKS,
    Machine,
    Option,
    cpu_choice,
    device_choices,
    plan_or_reason,
    precisions,
    presets,
    problem_of,
    ranks_of,
    remarks,
    start_methods,
    with_ranks,
)
from .closing import close_all
from .wording import code_of, impossible

_CARD_WIDTH = "248px"
_LABEL_WIDTH = "92px"
Options = Callable[[RunConfig, Machine], list[Option]]


class Controls:
    """Draws a choice and tells what somebody chooses. One thread at a time may use it.

    Args:
        kit: the module ``ipywidgets``.
        machine: what is there.
        choose: takes the config that somebody has chosen.
        press: called when the Launch button is pressed.
    """

    def __init__(
        self, kit: Any, machine: Machine, choose: Callable[[RunConfig], None], press: Callable[[], None]
    ) -> None:
        self._kit = kit
        self._choose = choose
        self._machine = machine
        self._config = RunConfig()
        self._drawing_in: int | None = None  # the thread that draws; what another changes meanwhile is a choice
        self._head = kit.HTML(head_html(machine.inventory))
        self._boxes = [self._checkbox(index) for index in range(len(machine.inventory.devices))]
        self._cpu_box = self._checkbox(None)
        self._texts = [kit.HTML() for _ in self._boxes]
        self._cpu_text = kit.HTML()
        self._rows = {
            "Preset": self._row(presets, "devices"),
            "Precision": self._row(precisions, "mixed precision"),
            "Start method": self._row(start_methods, "start method"),
        }
        self._ranks = kit.BoundedIntText(min=1, max=MOST_RANKS, description="Ranks", **self._described("150px"))
        self._ranks.observe(self._ranks_changed, "value")
        self._ranks_note = kit.HTML()
        self._seed = kit.Text(
            description="Seed", placeholder="none", continuous_update=False, **self._described("190px")
        )
        self._seed.observe(self._seed_changed, "value")
        self._seed_note = kit.HTML()
        self._impossible, self._remarks, self._code, self._verdict = (kit.HTML() for _ in range(4))
        layout = kit.Layout(width="auto", margin="2px 6px 2px 0")
        self.launch = kit.Button(description="Launch", icon="play", button_style="primary", layout=layout)
        self.launch.on_click(lambda _button: press())
        self.run = kit.HTML()
        self.root = self._arranged()

    # ---- making

    def _checkbox(self, index: int | None) -> Any:
        title = "CPU" if index is None else device_choices(self._config, self._machine)[index].title
        layout = self._kit.Layout(width="auto", margin="0")
        box = self._kit.Checkbox(description=title, indent=False, layout=layout)

        def changed(_change: object) -> None:
            if index is None:
                self._take(cpu_choice(self._config, self._machine))
            else:
                self._take(device_choices(self._config, self._machine)[index].option)

        box.observe(changed, "value")
        return box

    def _row(self, options: Options, what: str) -> tuple[Options, str, list[Any]]:
        buttons = []
        for place in range(len(options(self._config, self._machine))):
            button = self._kit.ToggleButton(layout=self._kit.Layout(width="auto", margin="1px 4px 1px 0"))

            def changed(_change: object, place: int = place) -> None:
                self._take(options(self._config, self._machine)[place])

            button.observe(changed, "value")
            buttons.append(button)
        return options, what, buttons

    def _described(self, width: str) -> dict[str, Any]:
        return {"style": {"description_width": _LABEL_WIDTH}, "layout": self._kit.Layout(width=width)}

    def _arranged(self) -> Any:
        row = {"flex_flow": "row wrap", "align_items": "center"}
        box, layout = self._kit.Box, self._kit.Layout
        pairs = [(self._cpu_box, self._cpu_text), *zip(self._boxes, self._texts, strict=True)]
        cards = box([self._card(*pair) for pair in pairs], layout=layout(flex_flow="row wrap", margin="4px 0"))
        lines = []
        for label, (_, _, buttons) in self._rows.items():
            name = self._kit.HTML(label_html(label), layout=layout(width=_LABEL_WIDTH, margin="0 8px 0 0"))
            lines.append(box([name, *buttons], layout=layout(**row)))
        devices, precision, start = lines
        fields = [
            box([self._ranks, self._ranks_note], layout=layout(**row)),
            box([self._seed, self._seed_note], layout=layout(**row)),
        ]
        launch = box([self.launch, self._verdict], layout=layout(**row))
        parts = [self._head, cards, self._remarks, devices, fields[0], precision, start, fields[1], self._impossible]
        return self._kit.VBox([*parts, self._code, launch, self.run], layout=layout(padding="4px 0", max_width="900px"))

    def _card(self, box: Any, text: Any) -> Any:
        border = "1px solid var(--jp-border-color2, #bbb)"
        return self._kit.VBox(
            [box, text],
            layout=self._kit.Layout(
                width=_CARD_WIDTH, margin="0 8px 8px 0", padding="4px 10px 8px 10px", border=border
            ),
        )

    # ---- choosing

    def _take(self, option: Option) -> None:
        """Choose an option; where that is impossible or chosen already, draw what is."""
        if self._is_drawing():
            return
        self._choose(self._config if option.why_not else option.leads_to)

    def _ranks_changed(self, change: Any) -> None:
        if not self._is_drawing():
            self._choose(with_ranks(self._config, int(change["new"])))

    def _seed_changed(self, change: Any) -> None:
        if self._is_drawing():
            return
        text = str(change["new"]).strip()
        try:
            config = _with_seed(self._config, text)
        except AccelError as error:
            self._seed_note.value = note_html(f"{error.what}; the seed is still {_seed_text(self._config)}")
            return
        self._choose(config)

    # ---- drawing

    def draw(self, config: RunConfig, machine: Machine, call: Call | None, cpu: CpuLoad) -> None:
        """Show a choice."""
        self._config, self._machine = config, machine
        with self._drawing():
            self._draw_cards(cpu)
            for options, what, buttons in self._rows.values():
                _draw_options(options(config, machine), what, buttons)
            ranks, why_fixed = ranks_of(config, machine)
            self._ranks.max = max(MOST_RANKS, ranks)
            self._ranks.value = ranks
            self._ranks.disabled = bool(why_fixed)
            self._ranks_note.value = note_html(why_fixed)
            self._seed.value = "" if config.seed is None else str(config.seed)
            self._seed_note.value = note_html("" if config.seed is not None else "fresh random numbers in every run")
            self._impossible.value = remarks_html(f"not possible: {text}" for text in impossible(config, machine))
            self._remarks.value = remarks_html(remarks(config, machine))
            self._code.value = code_html(code_of(config, call))
            problem = problem_of(config, machine)
            self._verdict.value = verdict_html(str(plan_or_reason(config, machine)), problem)

    def draw_button(self, *, is_bound: bool, can_launch: bool) -> None:
        """Show the Launch button where there is something to launch."""
        self.launch.layout.display = "" if is_bound else "none"
        self.launch.disabled = not can_launch

    def _draw_cards(self, cpu: CpuLoad) -> None:
        choices = device_choices(self._config, self._machine)
        for choice, box, text in zip(choices, self._boxes, self._texts, strict=True):
            _draw_box(box, choice.option)
            text.value = device_html(choice)
        _draw_box(self._cpu_box, cpu_choice(self._config, self._machine))
        self._cpu_text.value = cpu_html(self._machine.inventory, cpu)

    @contextmanager
    def _drawing(self) -> Any:
        """Take what this thread changes in widgets as drawing, not as choosing."""
        self._drawing_in = threading.get_ident()
        try:
            yield
        finally:
            self._drawing_in = None

    def _is_drawing(self) -> bool:
        return self._drawing_in == threading.get_ident()

    def close(self) -> None:
        """Take the widgets out of the kernel, and with it out of every page."""
        close_all(self.root)


def _draw_box(box: Any, option: Option) -> None:
    box.value = option.is_chosen
    box.disabled = bool(option.why_not)


def _draw_options(options: Sequence[Option], what: str, buttons: Sequence[Any]) -> None:
    for option, button in zip(options, buttons, strict=True):
        button.value = option.is_chosen
        button.disabled = bool(option.why_not)
        button.description = f"✓ {option.label}" if option.is_chosen else option.label  # not by colour alone
        button.tooltip = f"{what}: {option.label}" + (f" - not possible: {option.why_not}" if option.why_not else "")


def _with_seed(config: RunConfig, text: str) -> RunConfig:
    if not text:
        return replace(config, seed=None)
    return replace(config, seed=int(text) if text.isascii() and text.isdecimal() else text)  # type: ignore[arg-type]  # refused there


def _seed_text(config: RunConfig) -> str:
    return "none" if config.seed is None else str(config.seed)
