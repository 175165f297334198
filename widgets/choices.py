"""What can be chosen on a machine: pure functions from what is there and what is chosen to what the picker shows.

The state of the picker is the ``RunConfig`` itself. Whether an option is possible is decided by the launcher's own
plan, so the picker never offers what a launch would refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from notebook_accel.config import PRECISIONS, START_METHODS, Precision, RunConfig, StartMethod
from notebook_accel.errors import AccelError
from notebook_accel.hardware.inventory import Device, Inventory, Load
from notebook_accel.hardware.limits import warning, why_not_in, why_unusable
from notebook_accel.launch.plan import LaunchPlan, choose_devices, default_start_method, make_plan

MOST_RANKS = 64  # on the CPU; more are asked for in code
_REHEARSAL_RANKS = 2  # at least: one rank rehearses nothing
_HOLDER = "a run of this notebook"
_NOUNS = {"cuda": "GPU", "xla": "TPU", "tpu": "TPU", "mps": "GPU"}


@dataclass(frozen=True)
class Machine:
    """A machine at one moment.

    Attributes:
        inventory: what is there.
        loads: what each device does, in the inventory's order.
        held: selectors of the devices that runs of this notebook hold.
    """

    inventory: Inventory
    loads: tuple[Load, ...] = ()
    held: frozenset[str] = frozenset()

    def load_of(self, device: Device) -> Load:
        """Give what a device does, an empty answer where nobody can say."""
        place = self.inventory.devices.index(device) if device in self.inventory.devices else len(self.loads)
        return self.loads[place] if place < len(self.loads) else Load()

    def why_unusable(self, device: Device) -> str:
        """Say why no rank can compute on a device; nothing where one can."""
        return why_unusable(device, self.inventory.torch, self.load_of(device))

    def warning(self, device: Device) -> str:
        """Say why a rank on a device may well fail; nothing where no reason is known."""
        if device.selector in self.held:
            return f"{_HOLDER} computes on it"
        return warning(device, self.load_of(device))

    @property
    def usable(self) -> tuple[Device, ...]:
        """The devices that ranks can compute on."""
        return tuple(device for device in self.inventory.devices if not self.why_unusable(device))


@dataclass(frozen=True)
class Option:
    """One of several things to choose from.

    Attributes:
        label: what it is called.
        leads_to: the config that it makes.
        is_chosen: whether it is what the config says now.
        why_not: why it is impossible, "" where it is possible.
    """

    label: str
    leads_to: RunConfig
    is_chosen: bool
    why_not: str = ""


@dataclass(frozen=True)
class DeviceChoice:
    """A device that can be chosen or left out.

    Attributes:
        title: how it is called in the notebook.
        device: which it is.
        load: what it does.
        option: to choose it, or to leave it out if it is chosen.
        why_unusable: why no rank can compute on it.
        warning: why a rank may well fail there.
    """

    title: str
    device: Device
    load: Load
    option: Option
    why_unusable: str
    warning: str


def first_choice(machine: Machine) -> RunConfig:
    """Choose before anybody has: every device that can be used and is not taken, or the CPU."""
    usable = machine.usable
    free = tuple(device for device in usable if not machine.warning(device))
    return on_devices(RunConfig(), machine, free or usable)


def restored(config: RunConfig, machine: Machine) -> RunConfig:
    """Make of an earlier choice what is possible on this machine now."""
    first = first_choice(machine)
    settings = replace(first, seed=config.seed)
    precise = replace(settings, mixed_precision=config.mixed_precision)
    started = replace(precise, start_method=config.start_method)
    possible = (each for each in (config, started, precise, settings) if not problem_of(each, machine))
    return next(possible, first)


def on_devices(config: RunConfig, machine: Machine, devices: Iterable[Device]) -> RunConfig:
    """Choose devices, one rank on each; none means the CPU."""
    chosen = sorted(devices, key=lambda device: device.index)
    inventory = machine.inventory
    if not chosen:
        if inventory.devices:
            return on_cpu(config, machine)
        return replace(config, devices="auto", num_processes=min(_REHEARSAL_RANKS, inventory.cpu_cores))
    if len(chosen) == len(inventory.devices):
        return replace(config, devices="auto", num_processes=len(chosen))
    if chosen[0].kind != "cuda":  # only GPUs have numbers that can be asked for
        return replace(config, devices="auto", num_processes=len(chosen))
    return replace(config, devices=tuple(device.index for device in chosen), num_processes=None)


def on_cpu(config: RunConfig, machine: Machine, ranks: int | None = None) -> RunConfig:
    """Choose the CPU, whatever devices there are; as many ranks as there are devices unless said otherwise."""
    count = max(_REHEARSAL_RANKS, len(machine.inventory.devices)) if ranks is None else ranks
    return replace(config, devices="cpu", num_processes=count)


def chosen_devices(config: RunConfig, machine: Machine) -> tuple[Device, ...]:
    """Give the devices that a config means, also where it cannot be launched."""
    try:
        devices = choose_devices(config, machine.inventory)
    except AccelError:
        return ()
    return devices if config.num_processes is None else devices[: config.num_processes]


def plan_or_reason(config: RunConfig, machine: Machine) -> LaunchPlan | str:
    """Plan a launch, or say why there can be none."""
    try:
        return make_plan(config, machine.inventory, holders=dict.fromkeys(machine.held, _HOLDER))
    except AccelError as error:
        return error.what


def problem_of(config: RunConfig, machine: Machine) -> str:
    """Say why a config cannot be launched on a machine; nothing where it can, as far as that is known."""
    plan = plan_or_reason(config, machine)
    if isinstance(plan, str):
        return plan
    for device in plan.devices:
        reason = machine.why_unusable(device)
        if reason:
            return f"{title_of(device)} cannot be used: {reason}"
    return next(filter(None, (why_not_in(config.mixed_precision, device) for device in plan.devices)), "")


def title_of(device: Device) -> str:
    """Give what a device is called in the notebook."""
    return f"{_NOUNS[device.kind]} {device.index}"


def device_choices(config: RunConfig, machine: Machine) -> list[DeviceChoice]:
    """Give the devices, each to be chosen or left out."""
    chosen = chosen_devices(config, machine)
    found = []
    for device in machine.inventory.devices:
        is_chosen = device in chosen
        others = [other for other in chosen if other != device]
        leads_to = on_devices(config, machine, others if is_chosen else [*others, device])
        unusable = machine.why_unusable(device)
        plan = plan_or_reason(leads_to, machine)
        why_not = plan if isinstance(plan, str) else ""
        if not is_chosen:
            why_not = unusable or why_not
        option = Option(title_of(device), leads_to, is_chosen, why_not)
        load, warned = machine.load_of(device), machine.warning(device)
        found.append(DeviceChoice(title_of(device), device, load, option, unusable, warned))
    return found


def cpu_choice(config: RunConfig, machine: Machine) -> Option:
    """Give the CPU, to be chosen in place of the devices or to be left for them."""
    devices = machine.inventory.devices
    is_chosen = not chosen_devices(config, machine)
    if not is_chosen:
        leads_to = on_cpu(config, machine)
        return Option("CPU", leads_to, is_chosen=False, why_not=_refusal(leads_to, machine))
    if not devices:
        return Option("CPU", config, is_chosen=True, why_not="there is nothing else to compute on")
    usable = machine.usable
    leads_to = on_devices(config, machine, usable)
    why_not = _refusal(leads_to, machine) if usable else "none of the devices can be used"
    return Option("CPU", leads_to, is_chosen=True, why_not=why_not)


def presets(config: RunConfig, machine: Machine) -> list[Option]:
    """Give what people choose most: everything, one device, and a rehearsal on the CPU; always three."""
    devices, usable = machine.inventory.devices, machine.usable
    nothing = "none of the devices can be used" if devices and not usable else ""
    everything = on_devices(config, machine, usable)
    if usable:
        # The one that has most room.
        roomiest = max(usable, key=lambda device: (machine.load_of(device).memory_free_bytes or 0, -device.index))
        one = on_devices(config, machine, [roomiest])
    else:
        one = replace(everything, num_processes=1)
    rehearsal = on_cpu(config, machine)
    found: list[Option] = []
    for label, leads_to, why_not in [
        ("everything", everything, nothing),
        ("one device" if devices else "one process", one, nothing),
        (f"CPU rehearsal, {rehearsal.num_processes} ranks", rehearsal, ""),
    ]:
        is_first = not (why_not or any(option.is_chosen for option in found))
        is_chosen = is_first and _same_devices(leads_to, config, machine)
        found.append(Option(label, leads_to, is_chosen, why_not or _refusal(leads_to, machine)))
    return found


def precisions(config: RunConfig, machine: Machine) -> list[Option]:
    """Give the precisions to compute in."""
    devices = chosen_devices(config, machine)
    found = []
    for name in PRECISIONS:
        leads_to = replace(config, mixed_precision=cast("Precision", name))
        reasons = (why_not_in(name, device) for device in devices)
        label = "32 bit" if name == "no" else name
        found.append(Option(label, leads_to, config.mixed_precision == name, next(filter(None, reasons), "")))
    return found


def start_methods(config: RunConfig, machine: Machine) -> list[Option]:
    """Give the ways in which ranks come to be."""
    now = plan_or_reason(config, machine)
    current = config.start_method or default_start_method()
    current = current if isinstance(now, str) else now.start_method
    found = []
    for name in START_METHODS:
        method = cast("StartMethod", name)
        leads_to = replace(config, start_method=None if method == default_start_method() else method)
        plan = plan_or_reason(leads_to, machine)
        if isinstance(plan, str):
            why_not = plan
        else:
            why_not = "" if plan.start_method == name else f"on this device it comes to {plan.start_method}"
        found.append(Option(name, leads_to, current == name, why_not))
    return found


def with_ranks(config: RunConfig, ranks: int) -> RunConfig:
    """Choose how many ranks compute on the CPU."""
    return replace(config, num_processes=ranks)


def ranks_of(config: RunConfig, machine: Machine) -> tuple[int, str]:
    """Give the number of ranks, and why it cannot be chosen by itself, "" where it can."""
    plan = plan_or_reason(config, machine)
    count = (config.num_processes or 1) if isinstance(plan, str) else plan.world_size
    if chosen_devices(config, machine):
        return count, "one rank on each device that is ticked"
    if config.start_method == "inline":
        return count, 'start method "inline" has one rank'
    return count, ""


def remarks(config: RunConfig, machine: Machine) -> Iterator[str]:
    """Say what should be known about the machine and the choice."""
    inventory = machine.inventory
    if inventory.torch.version == "":
        yield "PyTorch is not installed for this kernel"
    for row in inventory.unavailable:
        yield f"{row.name}: {row.reason}"
    if inventory.host.warning:
        yield inventory.host.warning
    ranks, _ = ranks_of(config, machine)
    if config.grace_seconds != RunConfig.grace_seconds:
        yield f"grace_seconds={config.grace_seconds} is kept; notebook_launcher has no such argument"
    if not chosen_devices(config, machine) and ranks > inventory.cpu_cores:
        share = "1 core" if inventory.cpu_cores == 1 else f"{inventory.cpu_cores} cores"
        yield f"{ranks} ranks share {share}: good for a rehearsal, not for speed"


def _refusal(config: RunConfig, machine: Machine) -> str:
    plan = plan_or_reason(config, machine)
    return plan if isinstance(plan, str) else ""


def _same_devices(one: RunConfig, other: RunConfig, machine: Machine) -> bool:
    """Whether two configs put as many ranks on the same devices."""
    if (one.devices == "cpu") != (other.devices == "cpu"):
        return False
    plans = plan_or_reason(one, machine), plan_or_reason(other, machine)
    if isinstance(plans[0], str) or isinstance(plans[1], str):
        return (one.devices, one.num_processes) == (other.devices, other.num_processes)
    return (plans[0].devices, plans[0].world_size) == (plans[1].devices, plans[1].world_size)
