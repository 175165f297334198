"""The command ``notebook-accel``: what it takes, and who answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from notebook_accel import __version__
from notebook_accel.cli.launch import Target, launch, say
from notebook_accel.cli.settings import add_config_file, add_flags, asked_config
from notebook_accel.errors import AccelError

_EXIT_OF_BAD_INPUT = 2
_EXIT_OF_INTERRUPT = 130


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; give the exit code.

    Args:
        words: the command line without the program's name; this process's if left out.
    """
    arguments = parser().parse_args(words)
    try:
        code: int = arguments.answer(arguments)
    except AccelError as error:
        say(str(error))
        return _EXIT_OF_BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return _EXIT_OF_INTERRUPT
    return code


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    whole = argparse.ArgumentParser(
        prog="notebook-accel", description="Launch scripts that use Accelerator(), and see what they run on."
    )
    whole.add_argument("--version", action="version", version=f"notebook-accel {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="launch|config|env|test")
    _add_launch(commands)
    return whole


def _add_launch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "run a script on several processes or GPUs"
    command = commands.add_parser(
        "launch",
        help=words,
        allow_abbrev=False,
        usage="notebook-accel launch [flags] (script.py | -m module) [arguments of the script ...]",
        description="Run a script on several processes or GPUs of this machine, with torch's elastic launcher.",
        epilog="The exit code is the script's; 128 + n where signal n ended it.",
    )
    command.add_argument("-m", "--module", action="store_true", help="the script is the name of a module")
    # One or more, the first of which is not a flag and ends the flags: a script of its own would lose a "--" after it.
    command.add_argument("script", nargs=argparse.PARSER, help="path of the script, and what it is given")
    add_config_file(command)
    add_flags(command)
    command.set_defaults(answer=_launch)


def _launch(arguments: argparse.Namespace) -> int:
    config, notices = asked_config(arguments)
    name, *given = arguments.script
    target = Target(name, tuple(given), is_module=arguments.module)
    return launch(config, target, notices)
