"""What a run is asked to be: one frozen value, checked before any process starts."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, SupportsIndex, get_args

from notebook_accel.errors import ConfigError, NotAvailableError

Precision = Literal["no", "bf16", "fp16"]
StartMethod = Literal["forkserver", "fork", "spawn", "inline"]
Returns = Literal["all", "rank0"]
Logs = Literal["all", "rank0", "none"]
HangAction = Literal["report", "stop"]
DeviceChoice = Literal["auto", "cpu", "cuda", "mps", "tpu"]

PRECISIONS: tuple[str, ...] = get_args(Precision)
RETURNS: tuple[str, ...] = get_args(Returns)
LOGS: tuple[str, ...] = get_args(Logs)
HANG_ACTIONS: tuple[str, ...] = get_args(HangAction)
START_METHODS: tuple[str, ...] = get_args(StartMethod)
DEVICE_CHOICES: tuple[str, ...] = get_args(DeviceChoice)

_LONGEST_SECONDS = 1e9
# Name, smallest and largest value.
_COUNTS = (
    ("num_processes", 1, None),
    ("threads_per_rank", 1, 4096),
    ("seed", 0, 2**64 - 1),
    ("port", 0, 65535),
    ("max_restarts", 0, None),
)
_MAY_BE_LEFT_OUT = ("num_processes", "threads_per_rank", "seed")
_PLANNED = {
    "mixed_precision": {"fp8": "needs hardware kernels"},
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How to run a function: everything but the function and its arguments.

    Attributes:
        num_processes: number of ranks; None takes every device found, on a CPU-only machine two (or one per core).
        mixed_precision: "no", "bf16" or "fp16", what an ``Accelerator`` built in a rank uses.
        start_method: "forkserver" (ranks forked from a warm helper process), "fork" (from this process, with all it
            holds), "spawn" (fresh interpreters) or "inline" (in this process, one rank); None takes what suits the
            system, "forkserver" on Linux, "spawn" on macOS.
        devices: "auto", "cpu", "cuda", "mps", "tpu", or GPU numbers such as (1, 3), as this process sees them.
        preload: names of modules that the helper process imports once, so that no rank has to.
        seed: seed of Python's, NumPy's and torch's generators on every rank; None draws fresh entropy per rank.
        threads_per_rank: intra-op threads of each rank; None means OMP_NUM_THREADS where set, else cores // ranks, and
            one with start_method="fork".
        port: port of the rendezvous store on this machine; 0 lets the system choose a free one.
        log_prefix: template of the label before each shown line, of ``${rank}``, ``${local_rank}``, ``${role_name}``;
            None shows rank 0's lines plain and the others' behind "[rank 1] ".
        logs: of whom output, bars and displays are shown, "all", "rank0" or "none"; every rank's output is kept.
        grace_seconds: how long the other ranks may go on after a rank failed.
        returns: whose values come back, "all" or "rank0".
        timeout_seconds: how long the run may take from its launch on; None for as long as it needs.
        hang_timeout_seconds: how long no rank may print, end or move before it is said which waits where; None or 0
            never looks.
        hang_action: what a hang leads to, "report" or "stop" as well.
        max_restarts: how often a run whose function failed is started again.
        by_value: names of modules whose functions and classes travel as they are here, not imported by the ranks.
        resume: "auto" lets ``accelerator.resume()`` load the last checkpoint; None only after a restart.
        run_id: name of the run for frameworks that ask for one; None makes one up.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
        NotAvailableError: a value is known but not built yet.

    Example:
        >>> RunConfig(num_processes=2, mixed_precision="bf16").num_processes
        2
    """

    num_processes: int | None = None
    mixed_precision: Precision = "no"
    start_method: StartMethod | None = None
    devices: DeviceChoice | tuple[int, ...] = "auto"
    preload: tuple[str, ...] = ()
    seed: int | None = None
    threads_per_rank: int | None = None
    port: int = 0
    log_prefix: str | None = None
    logs: Logs = "all"
    grace_seconds: float = 1.0
    returns: Returns = "all"
    timeout_seconds: float | None = None
    hang_timeout_seconds: float | None = 120.0
    hang_action: HangAction = "report"
    max_restarts: int = 0
    by_value: tuple[str, ...] = ()
    resume: Literal["auto"] | None = None
    run_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the argument."""
        for name, minimum, maximum in _COUNTS:
            object.__setattr__(self, name, _checked_count(name, getattr(self, name), minimum, maximum))
        _check_name("mixed_precision", self.mixed_precision, PRECISIONS)
        if self.start_method is not None:
            _check_name("start_method", self.start_method, START_METHODS)
        object.__setattr__(self, "devices", _checked_devices(self.devices))
        object.__setattr__(self, "preload", _checked_modules("preload", self.preload))
        object.__setattr__(self, "by_value", _checked_modules("by_value", self.by_value))
        _check_run_id(self.run_id)
        _check_name("returns", self.returns, RETURNS)
        _check_name("logs", self.logs, LOGS)
        if not isinstance(self.log_prefix, (str, type(None))):
            what = f"log_prefix must be a string, not {self.log_prefix!r}"
            raise ConfigError(what, 'give a template such as "[${rank}] "')
        _check_seconds("grace_seconds", self.grace_seconds, zero_too=True)
        if self.timeout_seconds is not None:
            _check_seconds("timeout_seconds", self.timeout_seconds, zero_too=False)
        if self.hang_timeout_seconds is not None:
            _check_seconds("hang_timeout_seconds", self.hang_timeout_seconds, zero_too=True)
        _check_name("hang_action", self.hang_action, HANG_ACTIONS)
        if self.resume is not None:
            _check_name("resume", self.resume, ("auto",))

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> RunConfig:
        """Read a config from a YAML file (JSON is YAML too); what the file leaves out has its default.

        Args:
            file: its path.

        Raises:
            ConfigError: the file cannot be read, holds something else, or a value is wrong.
        """
        import yaml  # noqa: PLC0415 - a launch reads no files

        path = Path(file)
        try:
            said = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            what = f"{path} cannot be read as YAML: {error}"
            raise ConfigError(what, "RunConfig(...).save(path) writes such a file") from None
        if said is None:
            said = {}
        known = [each.name for each in fields(cls)]
        if not isinstance(said, dict):
            raise ConfigError(f"{path} holds no names with values", f"write lines such as {known[0]}: 2")
        for name in said:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"the names are {', '.join(known)}"
                raise ConfigError(f"{path} sets {name!r}, which is no part of a config", hint)
        if said.get("mixed_precision") is False:  # what YAML makes of a bare no
            said["mixed_precision"] = "no"
        return cls(**said)

    def save(self, file: str | os.PathLike[str]) -> None:
        r"""Write all of it to a YAML file, in place of what was there.

        Args:
            file: its path; the folder must exist.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     RunConfig(devices=(1, 3), seed=0).save(f"{folder}/run.yaml")
            ...     RunConfig.load(f"{folder}/run.yaml").devices
            (1, 3)
        """
        import yaml  # noqa: PLC0415 - a launch writes no files

        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        path = Path(file)
        written = path.with_name(f".{path.name}.{os.getpid()}")  # whoever reads finds the old file or the new one
        written.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
        written.replace(path)

    def shows(self, rank: int) -> bool:
        """Whether what a rank prints is shown."""
        return self.logs == "all" or (self.logs == "rank0" and rank == 0)


def _check_run_id(run_id: object) -> None:
    if run_id is not None and not (isinstance(run_id, str) and run_id.isprintable() and run_id):
        raise ConfigError(f"the run's name must be printable text, not {run_id!r}", 'for example rdzv_id="sweep-1"')


def _check_seconds(name: str, value: object, *, zero_too: bool) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= value <= _LONGEST_SECONDS or (value == 0 and not zero_too):  # type: ignore[operator]  # a number by then
        raise ConfigError(f"{name} must be a number of seconds, not {value!r}", f"for example {name}=60")


def _checked_count(name: str, value: object, minimum: int, maximum: int | None) -> int | None:
    if value is None and name in _MAY_BE_LEFT_OUT:
        return None
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):  # NumPy's integers are fine
        what = f"{name} must be a whole number, not {value!r} ({type(value).__name__})"
        raise ConfigError(what, f"pass an int, for example {name}={max(minimum, 2)}")
    number = operator.index(value)
    if number < minimum or (maximum is not None and number > maximum):
        bound = f"{minimum} or more" if maximum is None else f"between {minimum} and {maximum}"
        raise ConfigError(f"{name} must be {bound}, not {value}", f"for example {name}={max(minimum, 2)}")
    return number


def _check_name(name: str, value: object, known: Sequence[str]) -> None:
    planned = _PLANNED.get(name, {})
    if isinstance(value, str) and value in planned:
        what = f"{name}={value!r} is not built yet ({planned[value]})"
        raise NotAvailableError(what, f"use one of {', '.join(map(repr, known))}")
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}", f"use one of {', '.join(map(repr, known))}")


def _checked_devices(devices: object) -> DeviceChoice | tuple[int, ...]:
    if isinstance(devices, str):
        _check_name("devices", devices, DEVICE_CHOICES)
        return devices  # type: ignore[return-value]  # checked against the literal's own values
    hint = f"use one of {', '.join(map(repr, DEVICE_CHOICES))}, or GPU numbers such as (0, 1)"
    if not isinstance(devices, Sequence) or not devices:
        raise ConfigError(f"devices must name devices, not {devices!r}", hint)
    numbers: list[int] = []
    for number in devices:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ConfigError(f"devices holds {number!r}, which is no GPU number", hint)
        numbers.append(number)
    if len(set(numbers)) != len(numbers):
        raise ConfigError(f"devices names a GPU twice: {numbers}", "one rank uses one GPU; name each once")
    return tuple(numbers)


def _checked_modules(argument: str, modules: object) -> tuple[str, ...]:
    given = (modules,) if isinstance(modules, (str, ModuleType)) else modules
    hint = f'for example {argument}=["my_model"]'
    if not isinstance(given, Sequence):
        raise ConfigError(f"{argument} must be module names, not {modules!r}", hint)
    names = [entry.__name__ if isinstance(entry, ModuleType) else entry for entry in given]
    if not all(isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in names):
        raise ConfigError(f"{argument} must be module names, not {modules!r}", hint)
    return tuple(names)


@dataclass(frozen=True, kw_only=True)
class AccelerateArguments:
    """The arguments of Hugging Face Accelerate's ``notebook_launcher`` that tell how several machines meet.

    What holds for one machine is accepted; anything else is refused with the reason, never ignored.
    Source: https://huggingface.co/docs/accelerate/package_reference/launchers
    """

    master_addr: str = "127.0.0.1"
    node_rank: int = 0
    num_nodes: int = 1
    rdzv_backend: str | None = "static"
    rdzv_endpoint: str = ""
    rdzv_conf: Mapping[str, Any] | None = None
    monitor_interval: float = 0.1

    def __post_init__(self) -> None:
        """Refuse every value that would otherwise be ignored."""
        _check_seconds("monitor_interval", self.monitor_interval, zero_too=False)  # a rank's end is noticed at once
        on_this_machine = {
            "master_addr": self.master_addr in _THIS_MACHINE,
            "node_rank": self.node_rank == 0,
            "num_nodes": self.num_nodes == 1,
            "rdzv_backend": self.rdzv_backend in ("static", "c10d", "", None),
            "rdzv_endpoint": not self.rdzv_endpoint or str(self.rdzv_endpoint).rpartition(":")[0] in _THIS_MACHINE,
            "rdzv_conf": isinstance(self.rdzv_conf or {}, Mapping) and set(self.rdzv_conf or ()) <= _WAITING_TIMES,
        }
        for name, holds in on_this_machine.items():
            if not holds:
                what = f"{name}={getattr(self, name)!r} cannot be honoured"
                raise NotAvailableError(what, "more than one machine is not built yet; leave it out")

    def port(self, use_port: object) -> int:
        """Give the port that was asked for, by ``use_port`` or in ``rdzv_endpoint``; 0 leaves it to the system."""
        if not self.rdzv_endpoint:
            return checked_port(use_port)
        port = checked_port(str(self.rdzv_endpoint).rpartition(":")[2])
        if use_port is not None and checked_port(use_port) != port:
            what = f"use_port={use_port!r} and rdzv_endpoint={self.rdzv_endpoint!r} name different ports"
            raise ConfigError(what, "leave one of them out")
        return port


_THIS_MACHINE = ("127.0.0.1", "localhost")
# How long machines wait for each other: on one machine no rank waits for another to appear.
_WAITING_TIMES = {
    "timeout",
    "join_timeout",
    "last_call_timeout",
    "close_timeout",
    "read_timeout",
    "keep_alive_interval",
}


def checked_port(use_port: object) -> int:
    """Read Accelerate's ``use_port`` (a string there): None leaves the choice to the system."""
    if use_port is None:
        return 0
    try:
        return int(str(use_port))
    except ValueError:
        raise ConfigError(f"use_port must be a port number, not {use_port!r}", "leave it out") from None


def check_call(function: object, args: object, kwargs: object) -> None:
    """Refuse a function or arguments that could not be called.

    Raises:
        ConfigError: not callable, args not a tuple, or kwargs not a mapping of names.
    """
    if not callable(function):
        what = f"the first argument must be a function, not {function!r} ({type(function).__name__})"
        raise ConfigError(what, "pass the function itself, without calling it: notebook_launcher(train, args=(...,))")
    if not isinstance(args, tuple):
        what = f"args must be a tuple, not {args!r} ({type(args).__name__})"
        raise ConfigError(what, "write args=(value,) for one argument: the comma makes the tuple")
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)):
        raise ConfigError(f"kwargs must be a dict with string keys, not {kwargs!r}", 'for example kwargs={"lr": 0.1}')
