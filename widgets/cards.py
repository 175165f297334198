"""The picker's HTML: what it says beside what can be pressed. Colours are the front end's, light or dark."""

from __future__ import annotations

import html
from collections.abc import Iterable

from notebook_accel.hardware.inventory import Inventory, Load
from notebook_accel.hardware.loads import CpuLoad

from .choices import DeviceChoice
from .wording import GIB, busy_text, memory_text, place_of, reasons_of, size_text, users_text

FONT = "font-family:var(--jp-ui-font-family,sans-serif);font-size:13px;color:var(--jp-ui-font-color1,inherit)"
CODE = "font-family:var(--jp-code-font-family,monospace);font-size:12px"
_MUTED = "color:var(--jp-ui-font-color2,#666)"
_SMALL = f"font-size:12px;line-height:1.35;{_MUTED}"
_GOOD, _BUSY = "var(--jp-brand-color1,#1976d2)", "var(--jp-warn-color1,#e65100)"
_BAD = "var(--jp-error-color1,#d32f2f)"
_NEARLY_ALL = 0.9


def head_html(inventory: Inventory) -> str:
    """Say where the notebook runs."""
    where = html.escape(place_of(inventory))
    return f'<div style="{FONT}"><b>Hardware</b> <span style="{_MUTED}">{where}</span></div>'


def device_html(choice: DeviceChoice) -> str:
    """Draw what a device is, how busy and full it is, who uses it, and what speaks against it."""
    device, load = choice.device, choice.load
    capability = device.compute_capability
    kind = "" if capability is None else f"compute capability {capability[0]}.{capability[1]}"
    lines = [f"<b>{html.escape(device.name)}</b>", _small(kind)]
    lines.append(_memory_bar(choice.title, load, device.memory_total_bytes))
    if load.busy_percent is not None:
        lines.append(_bar(f"{choice.title} busy", load.busy_percent / 100, busy_text(load)))
    lines.append(_small(users_text(load)))
    for word, reason in reasons_of(choice):
        colour = _BAD if word == "cannot be used" else _BUSY
        mark = "✘" if word == "cannot be used" else "⚠"
        lines.append(
            f'<div style="font-size:12px;line-height:1.35;border-left:3px solid {colour};padding-left:6px;'
            f'margin-top:3px"><b>{mark} {word}</b>: {html.escape(reason)}</div>'
        )
    return _card_text(lines)


def cpu_html(inventory: Inventory, load: CpuLoad) -> str:
    """Draw what the machine has beside its devices."""
    host, cores = inventory.host, inventory.cpu_cores
    some = host.installed_cores is not None and host.installed_cores > cores
    count = f"{cores} of {host.installed_cores} cores" if some else f"{cores} core{'s' if cores > 1 else ''}"
    lines = [f"<b>{count}</b>"]
    total, free = host.memory_total_bytes, host.memory_available_bytes
    if total is not None and free is not None:
        used = Load(memory_used_bytes=total - free, memory_total_bytes=total)
        lines.append(_memory_bar("CPU", used, total))
    if host.memory_limit_bytes is not None:
        lines.append(_small(f"limit of the container: {host.memory_limit_bytes / GIB:.1f} GiB"))
    if load.busy_percent is not None:
        lines.append(_bar("CPU busy", load.busy_percent / 100, f"{load.busy_percent:.0f} % busy"))
    if host.shared_memory_free_bytes is not None:
        lines.append(_small(f"{size_text(host.shared_memory_free_bytes)} shared memory free"))
    return _card_text(lines)


def remarks_html(lines: Iterable[str]) -> str:
    """Draw remarks below each other; nothing where there are none."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<ul style="{FONT};{_SMALL};margin:2px 0;padding-left:18px">{items}</ul>' if items else ""


def label_html(text: str) -> str:
    """Draw the name of a row of controls."""
    return f'<div style="{FONT};text-align:right">{html.escape(text)}</div>'


def note_html(text: str) -> str:
    """Draw words beside a control."""
    return f'<span style="{FONT};{_SMALL}">{html.escape(text)}</span>' if text else ""


def code_html(code: str) -> str:
    """Draw the line of code: a click into it selects all of it."""
    style = (
        f"{CODE};display:block;white-space:pre-wrap;overflow-wrap:anywhere;user-select:all;padding:6px 8px;"
        "border:1px solid var(--jp-border-color2,#bbb);background:var(--jp-layout-color2,rgba(128,128,128,.12));"
        "color:var(--jp-content-font-color1,inherit);border-radius:2px"
    )
    return f'<code style="{style}" aria-label="the same in code">{html.escape(code)}</code>'


def verdict_html(plan: str, problem: str) -> str:
    """Say what a launch would do, or why there can be none; read out by screen readers when it changes."""
    if problem:
        said = f'<span style="color:{_BAD}">✘</span> not possible: {html.escape(problem)}'
    else:
        said = f'<span style="color:var(--jp-success-color1,#2e7d32)">✔</span> {html.escape(plan)}'
    return f'<div role="status" aria-live="polite" style="{FONT}">{said}</div>'


def _card_text(lines: Iterable[str]) -> str:
    return f'<div style="{FONT};line-height:1.4">' + "".join(f"<div>{line}</div>" for line in lines if line) + "</div>"


def _small(text: str) -> str:
    return f'<span style="{_SMALL}">{html.escape(text)}</span>' if text else ""


def _memory_bar(title: str, load: Load, total_bytes: int) -> str:
    text = memory_text(load, total_bytes)
    text = f"memory: {text}" if text else ""
    if load.memory_used_bytes is None or not load.memory_total_bytes:
        return _small(text)
    return _bar(f"{title} memory taken", load.memory_used_bytes / load.memory_total_bytes, text)


def _bar(label: str, part: float, text: str) -> str:
    """Draw a measure: elements that every front end draws alike, which a sanitizer lets through."""
    percent = round(100 * min(1.0, max(0.0, part)))
    colour = _BUSY if part >= _NEARLY_ALL else _GOOD
    inner = f'<div style="width:{percent}%;height:100%;background:{colour}"></div>'
    track = "height:5px;margin:1px 0 3px;background:var(--jp-border-color2,#ccc);border-radius:2px;overflow:hidden"
    return (
        f'<div style="{_SMALL}">{html.escape(text)}</div>'
        f'<div role="img" aria-label="{html.escape(label)} {percent} %" style="{track}">{inner}</div>'
    )
