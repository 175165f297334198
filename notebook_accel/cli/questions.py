"""Ask what scripts are to run on, and keep the answers in the file that ``launch`` starts from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from notebook_accel.cli.launch import plan_script
from notebook_accel.cli.settings import ASKED, SETTINGS, Setting, shown_path
from notebook_accel.config import RunConfig
from notebook_accel.errors import AccelError, ConfigError, NotAvailableError


def ask(before: RunConfig, answer: Callable[[str], str], tell: Callable[[str], None]) -> RunConfig:
    """Ask for the settings that people change; whatever is possible here is accepted.

    Args:
        before: what an empty answer keeps.
        answer: gives what somebody answers to a question.
        tell: says something to them.
    """
    config = RunConfig()
    for setting in SETTINGS:
        if setting.name in ASKED:
            config = _answered(setting, config, before, (answer, tell))
    return replace(before, **{name: getattr(config, name) for name in ASKED})


def _answered(
    setting: Setting,
    config: RunConfig,
    before: RunConfig,
    talk: tuple[Callable[[str], str], Callable[[str], None]],
) -> RunConfig:
    answer, tell = talk
    kept: Any = getattr(before, setting.name)
    try:
        plan_script(replace(config, **{setting.name: kept}))
    except ConfigError:  # the hardware has changed since, or another answer has
        kept = getattr(RunConfig(), setting.name)
    while True:
        said = answer(f"{setting.name}, {setting.help} ({setting.metavar}) [{_text(kept)}]: ").strip()
        value: Any = setting.read(said) if said else kept
        try:
            changed = replace(config, **{setting.name: value})
            plan = plan_script(changed)
        except AccelError as error:
            tell(str(error))
            continue
        tell(f"  -> {plan}")
        return changed


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "auto" if value is None else str(value)


def kept_settings(file: Path) -> RunConfig:
    """Give what a file holds, the defaults where there is none.

    Raises:
        ConfigError: it holds something else.
    """
    return RunConfig.load(file) if file.is_file() else RunConfig()


def keep(config: RunConfig, file: Path) -> None:
    """Write settings to a file, in place of what was there.

    Raises:
        NotAvailableError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        config.save(file)
    except OSError as error:
        what = f"{shown_path(file)} cannot be written: {error.strerror}"
        raise NotAvailableError(what, "set NOTEBOOK_ACCEL_HOME to a folder that can, or use --config-file") from None


def shown(file: Path) -> str:
    """Give the path and the content of a file of settings.

    Raises:
        ConfigError: it cannot be read.
    """
    if not file.is_file():
        return f"# {shown_path(file)} does not exist: launch takes the defaults"
    try:
        return f"# {shown_path(file)}\n{file.read_text(encoding='utf-8').rstrip()}"
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown_path(file)} cannot be read: {error}", "write it anew, with --default") from None
