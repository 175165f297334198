"""The command ``notebook-accel``: what it takes, and who answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from notebook_accel import __version__
from notebook_accel.cli.launch import Target, launch, plan_script, say
from notebook_accel.cli.questions import ask, keep, kept_settings, shown
from notebook_accel.cli.report import report
from notebook_accel.cli.settings import add_config_file, add_flags, asked_config, shown_path
from notebook_accel.config import RunConfig
from notebook_accel.errors import AccelError, ConfigError
from notebook_accel.launch.basic_config import default_config_file

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
    _add_config(commands)
    _add_test(commands)
    words = "print versions, devices and settings, to paste into a report of a problem"
    commands.add_parser("env", help=words, description=words.capitalize()).set_defaults(answer=_env)
    return whole


def _add_launch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "run a script on several processes or GPUs"
    command = commands.add_parser(
        "launch",
        help=words,
        allow_abbrev=False,
        usage="notebook-accel launch [flags] (script.py | -m module) [arguments of the script ...]",
        description="Run a script on several processes or GPUs of this machine, with torch's elastic launcher.",
        epilog="The exit code is the script's; 128 + n where signal n ended it. What a config file sets beside these "
        "flags means nothing for a script, and is named when it is launched.",
    )
    command.add_argument("-m", "--module", action="store_true", help="the script is the name of a module")
    # One or more, the first of which is not a flag and ends the flags: a script of its own would lose a "--" after it.
    command.add_argument("script", nargs=argparse.PARSER, help="path of the script, and what it is given")
    add_config_file(command)
    add_flags(command)
    command.set_defaults(answer=_launch)


def _add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "keep the settings that launch starts from"
    command = commands.add_parser("config", help=words, allow_abbrev=False, description=words.capitalize())
    what = command.add_mutually_exclusive_group()
    what.add_argument("--default", action="store_true", help="ask nothing: take whatever a machine has")
    what.add_argument("--show", action="store_true", help="print what is kept")
    add_config_file(command)
    command.set_defaults(answer=_config)


def _add_test(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "check that ranks find each other and train right here"
    command = commands.add_parser("test", help=words, allow_abbrev=False, description=words.capitalize())
    add_config_file(command)
    add_flags(command)
    command.set_defaults(answer=_test)


def _test(arguments: argparse.Namespace) -> int:
    config, notices = asked_config(arguments)
    plan = plan_script(config)
    expected = (str(plan.world_size), plan.device_kind)
    return launch(config, Target("notebook_accel.worker.check_run", expected, is_module=True), notices)


def _env(_arguments: argparse.Namespace) -> int:
    _print(report())
    return 0


def _config(arguments: argparse.Namespace) -> int:
    file = default_config_file() if arguments.config_file is None else Path(arguments.config_file)
    if arguments.show:
        _print(shown(file))
        return 0
    config = RunConfig()
    if not arguments.default:
        if not sys.stdin.isatty():
            what = "config asks questions, and nobody can answer: standard input is no terminal"
            raise ConfigError(what, "use notebook-accel config --default, or flags of launch")
        try:
            config = ask(kept_settings(file), input, _print)
        except EOFError:
            raise ConfigError("the questions were not answered; nothing was written", "use --default") from None
    keep(config, file)
    _print(f"written to {shown_path(file)}")
    return 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _launch(arguments: argparse.Namespace) -> int:
    config, notices = asked_config(arguments)
    name, *given = arguments.script
    target = Target(name, tuple(given), is_module=arguments.module)
    return launch(config, target, notices)
