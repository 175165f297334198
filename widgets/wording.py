"""A choice in words: the line of code that says the same, and the picker as text."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import fields

from notebook_accel.config import RunConfig
from notebook_accel.hardware.inventory import Inventory, Load
from notebook_accel.launch.job import Call

from .choices import (
    DeviceChoice,
    Machine,
    device_choices,
    plan_or_reason,
    precisions,
    presets,
    problem_of,
    remarks,
    start_methods,
)

GIB = 2**30
_LONGEST_VALUE = 60
_WIDTH = 110
# What the launcher calls otherwise; the rest is called the same.
_ARGUMENTS = {"log_prefix": "log_line_prefix_template", "port": "use_port", "run_id": "rdzv_id"}
_WITHOUT_ARGUMENT = frozenset({"grace_seconds"})


def code_of(config: RunConfig, call: Call | None = None) -> str:
    """Give the line that launches the same.

    Args:
        config: what is chosen.
        call: what is launched, None where that is still to be named.

    Example:
        >>> code_of(RunConfig(devices=(1, 3), mixed_precision="bf16"))
        'notebook_launcher(train, mixed_precision="bf16", devices=(1, 3))'
    """
    parts = ["train"]
    if call is not None:
        parts = [call.name if call.name.isidentifier() else "function"]
        parts += [f"args={_literal(call.args, 'args')}"] if call.args else []
        parts += [f"kwargs={_literal(call.kwargs, 'kwargs')}"] if call.kwargs else []
    for each in fields(config):
        value = getattr(config, each.name)
        if value != each.default and each.name not in _WITHOUT_ARGUMENT:
            parts.append(f"{_ARGUMENTS.get(each.name, each.name)}={_code(value)}")
    return f"notebook_launcher({', '.join(parts)})"


def _code(value: object) -> str:
    """Write a value as people write it, with double quotes where these need no care."""
    plain = isinstance(value, str) and value.isprintable() and not set(value) & {'"', "\\"}
    return f'"{value}"' if plain else repr(value)


def _literal(value: object, name: str) -> str:
    """Write a value as code, or its name where that is no short literal."""
    text = repr(value)
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name
    return text if len(text) <= _LONGEST_VALUE else name


def picker_text(config: RunConfig, machine: Machine, call: Call | None = None) -> str:
    """Say in text what the picker shows: what is there, what is chosen, and what is impossible and why."""
    lines = [f"Hardware: {place_of(machine.inventory)}"]
    choices = device_choices(config, machine)
    on_cpu = not any(choice.option.is_chosen for choice in choices)
    lines.append(f"  [{'x' if on_cpu else ' '}] CPU  {cpu_facts(machine.inventory)}")
    for choice in choices:
        lines.append(f"  [{'x' if choice.option.is_chosen else ' '}] {choice.title}  {', '.join(facts_of(choice))}")
        lines += [f"        {word}: {reason}" for word, reason in reasons_of(choice)]
    lines += [f"  note: {remark}" for remark in remarks(config, machine)]
    plan = plan_or_reason(config, machine)
    problem = problem_of(config, machine)
    lines.append(f"Chosen: {plan if problem == '' else 'nothing that can be launched: ' + problem}")
    lines += [f"  not possible: {text}" for text in impossible(config, machine)]
    lines.append(f"Code: {code_of(config, call)}")
    return "\n".join(
        textwrap.fill(line, _WIDTH, subsequent_indent=" " * 8) if not line.startswith("Code:") else line
        for line in lines
    )


def place_of(inventory: Inventory) -> str:
    """Say where the notebook runs and with which PyTorch."""
    torch = inventory.torch
    return str(inventory.platform) + (f", torch {torch.version} ({torch.kind})" if torch.version else "")


def cpu_facts(inventory: Inventory) -> str:
    """Say what the machine has beside its devices."""
    host, cores = inventory.host, inventory.cpu_cores
    some = host.installed_cores is not None and host.installed_cores > cores
    parts = [f"{cores} of {host.installed_cores} cores" if some else f"{cores} core{'s' if cores > 1 else ''}"]
    if host.memory_total_bytes is not None:
        limit = " (the container's limit)" if host.memory_limit_bytes == host.memory_total_bytes else ""
        free = host.memory_available_bytes
        free_text = "" if free is None else f"{free / GIB:.1f} of "
        parts.append(f"{free_text}{host.memory_total_bytes / GIB:.1f} GiB memory free{limit}")
    if host.shared_memory_free_bytes is not None:
        parts.append(f"{size_text(host.shared_memory_free_bytes)} shared memory free")
    return ", ".join(parts)


def size_text(size_bytes: int) -> str:
    """Say a size of memory."""
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / 2**20:.0f} MiB"


def facts_of(choice: DeviceChoice) -> list[str]:
    """Say what a device is and what it does."""
    device, load = choice.device, choice.load
    facts = [device.name]
    if device.compute_capability is not None:
        facts.append("compute capability {}.{}".format(*device.compute_capability))
    facts.append(memory_text(load, device.memory_total_bytes))
    facts.append(busy_text(load))
    facts.append(users_text(load))
    return [fact for fact in facts if fact]


def memory_text(load: Load, total_bytes: int) -> str:
    """Say how much of a device's memory is free; nothing where not even its size is known."""
    free, total = load.memory_free_bytes, load.memory_total_bytes or total_bytes
    if not total:
        return ""
    return f"{total / GIB:.1f} GiB" if free is None else f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"


def busy_text(load: Load) -> str:
    """Say how busy a device is; nothing where nobody can say."""
    return "" if load.busy_percent is None else f"{load.busy_percent:.0f} % busy"


def users_text(load: Load) -> str:
    """Say who uses a device; nothing where nobody does."""
    who = [
        "this notebook" if process.is_own else f"{process.name or 'process'} ({process.pid})"
        for process in load.processes
    ]
    return f"used by {', '.join(dict.fromkeys(who))}" if who else ""


def reasons_of(choice: DeviceChoice) -> Iterator[tuple[str, str]]:
    """Give what speaks against a device, each behind a word for how much."""
    if choice.why_unusable:
        yield "cannot be used", choice.why_unusable
    elif choice.warning:
        yield "careful", choice.warning


def impossible(config: RunConfig, machine: Machine) -> list[str]:
    """Name the options that are impossible now, each with its reason, options of one reason together."""
    choices = device_choices(config, machine)
    groups = [
        ("to choose ", [choice.option for choice in choices if not (choice.option.is_chosen or choice.why_unusable)]),
        ("to leave out ", [choice.option for choice in choices if choice.option.is_chosen]),
        ("", presets(config, machine)),
        ("", precisions(config, machine)),
        ("start method ", start_methods(config, machine)),
    ]
    by_reason: dict[tuple[str, str], list[str]] = {}
    for kind, options in groups:
        for option in options:
            if option.why_not:
                by_reason.setdefault((kind, option.why_not), []).append(option.label)
    return [f"{kind}{', '.join(labels)}: {reason}" for (kind, reason), labels in by_reason.items()]
