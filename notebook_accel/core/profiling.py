"""Recording what a block computes, with torch's profiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from notebook_accel.core.handlers import ProfileKwargs
from notebook_accel.errors import ConfigError

_ACTIVITIES = ("cpu", "cuda", "xpu", "mtia", "hpu", "privateuse1")


@contextmanager
def profiled(handler: ProfileKwargs, rank: int, wait: Any) -> Iterator[torch.profiler.profile]:
    """Record a block; each rank writes its trace where the handler says.

    Args:
        handler: what is recorded.
        rank: names the trace, ``profile_<rank>.json``.
        wait: called when traces are written, so that no rank goes on before all have them.

    Raises:
        ConfigError: an unknown activity.
    """
    options = handler.to_kwargs()
    folder = options.pop("output_trace_dir", None)
    schedule = options.pop("schedule_option", None)
    if handler.activities is not None:
        options["activities"] = [_activity(name) for name in handler.activities]
    if schedule is not None:
        options["schedule"] = torch.profiler.schedule(**schedule)
    with torch.profiler.profile(**options) as profiler:
        yield profiler
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(Path(folder) / f"profile_{rank}.json"))
        wait()


def _activity(name: str) -> Any:
    found = getattr(torch.profiler.ProfilerActivity, str(name).upper(), None)
    if found is None:
        raise ConfigError(f"unknown activity {name!r}", f"use one of {', '.join(_ACTIVITIES)}")
    return found
