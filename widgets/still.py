"""The picker as HTML without anything to press, for front ends without widgets."""

from __future__ import annotations

from notebook_accel.config import RunConfig
from notebook_accel.hardware.loads import CpuLoad
from notebook_accel.launch.job import Call

from .cards import FONT, code_html, cpu_html, device_html, head_html, remarks_html, verdict_html
from .choices import Machine, cpu_choice, device_choices, plan_or_reason, problem_of, remarks
from .wording import code_of, impossible


def still_html(config: RunConfig, machine: Machine, call: Call | None, cpu: CpuLoad) -> str:
    """Draw what is there and what is chosen.

    Args:
        config: what is chosen.
        machine: what is there.
        call: what would be launched, None where that is not named.
        cpu: how busy the CPU is.
    """
    choices = device_choices(config, machine)
    cards = [_card("CPU", cpu_html(machine.inventory, cpu), is_chosen=cpu_choice(config, machine).is_chosen)]
    cards += [_card(choice.title, device_html(choice), is_chosen=choice.option.is_chosen) for choice in choices]
    parts = [
        head_html(machine.inventory),
        f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin:4px 0">{"".join(cards)}</div>',
        remarks_html(remarks(config, machine)),
        remarks_html(f"not possible: {text}" for text in impossible(config, machine)),
        code_html(code_of(config, call)),
        verdict_html(str(plan_or_reason(config, machine)), problem_of(config, machine)),
    ]
    return "".join(parts)


def _card(title: str, drawn: str, *, is_chosen: bool) -> str:
    mark = "☑" if is_chosen else "☐"
    border = "border:1px solid var(--jp-border-color2,#bbb);padding:4px 10px 8px;width:226px"
    return f'<div style="{border}"><div style="{FONT}">{mark} {title}</div>{drawn}</div>'
