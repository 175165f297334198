"""The fields of ``RunConfig`` that mean something for a script: flags, questions, and the file that both start from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

from notebook_accel.config import DEVICE_CHOICES, PRECISIONS, RunConfig
from notebook_accel.launch.basic_config import default_config_file


def whole_number(text: str) -> object:
    """Read a whole number; "auto" is None, and what is neither is left for ``RunConfig`` to refuse."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        return text


def seconds(text: str) -> object:
    """Read a number of seconds; what is none is left for ``RunConfig`` to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def device_choice(text: str) -> object:
    """Read the name of a kind of devices, or GPU numbers.

    Example:
        >>> device_choice("1,3"), device_choice("cpu")
        ((1, 3), 'cpu')
    """
    parts = [part.strip() for part in text.split(",")]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else text


@dataclass(frozen=True)
class Setting:
    """One field of ``RunConfig``, as a flag and as a question.

    Attributes:
        name: of the field.
        metavar: what stands for its value in help and questions.
        help: what it is.
        read: makes a value of what somebody wrote.
    """

    name: str
    metavar: str
    help: str
    read: Callable[[str], object] = str

    @property
    def flag(self) -> str:
        """The flag that is shown; underscores work too."""
        return "--" + self.name.replace("_", "-")


SETTINGS = (
    Setting("devices", f"{'|'.join(DEVICE_CHOICES)}|0,1", "what to compute on; numbers choose GPUs", device_choice),
    Setting("num_processes", "N|auto", "number of ranks; auto takes every device, without any two ranks", whole_number),
    Setting("mixed_precision", "|".join(PRECISIONS), "what an Accelerator in the script computes in"),
    Setting("threads_per_rank", "N|auto", "intra-op threads of each rank; auto shares the cores", whole_number),
    Setting("max_restarts", "N", "how often a script that failed is started again", whole_number),
    Setting("timeout_seconds", "SECONDS", "how long the script may take (exit code 124 after that)", seconds),
    Setting("port", "PORT", "port of the rendezvous store; 0 takes a free one", whole_number),
    Setting("log_prefix", "TEMPLATE", "label before each line, such as '[${rank}] '; without it there is none"),
    Setting("run_id", "NAME", "name of the run, TORCHELASTIC_RUN_ID in the script"),
)
ASKED = ("devices", "num_processes", "mixed_precision")

# The other fields, each with what holds for a script.
WITHOUT_MEANING: Mapping[str, str] = MappingProxyType(
    {
        "start_method": "torch's launcher starts fresh interpreters",
        "preload": "no warm helper is used",
        "seed": "the script calls set_seed()",
        "logs": "every rank's output is shown",
        "grace_seconds": "torch's launcher ends the other ranks at once",
        "returns": "a script returns nothing",
        "hang_timeout_seconds": "nobody watches where ranks wait",
        "hang_action": "nobody watches where ranks wait",
        "by_value": "a script imports its modules",
        "resume": "the script calls load_state(), or resume() after a restart",
    }
)


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names another file."""
    parser.add_argument("--config-file", "--config_file", metavar="FILE", help="YAML to use instead of the default one")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting."""
    group = parser.add_argument_group("what to run on (a flag wins over the config file)")
    for each in SETTINGS:
        spellings = dict.fromkeys([each.flag, f"--{each.name}"])
        group.add_argument(
            *spellings,
            dest=each.name,
            metavar=each.metavar,
            type=each.read,
            default=argparse.SUPPRESS,
            help=each.help,
        )


def shown_path(path: Path) -> str:
    """Write a path without the name of its user."""
    try:
        return f"~/{path.absolute().relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def asked_config(arguments: argparse.Namespace) -> tuple[RunConfig, list[str]]:
    """Give the file's values with those of flags over them, and what there is to say about it.

    Args:
        arguments: as parsed.

    Raises:
        ConfigError: the file cannot be read, or a value is wrong.
    """
    file = default_config_file() if arguments.config_file is None else Path(arguments.config_file)
    if arguments.config_file is None and not file.is_file():
        written, notices = RunConfig(), []
    else:
        written, notices = RunConfig.load(file), [f"settings from {shown_path(file)}"]
    given = vars(arguments)
    config = RunConfig(**{each.name: given.get(each.name, getattr(written, each.name)) for each in SETTINGS})
    for field in fields(RunConfig):
        if field.name in WITHOUT_MEANING and getattr(written, field.name) != field.default:
            notices.append(f"{field.name} has no meaning for a script: {WITHOUT_MEANING[field.name]}")
    return config, notices
