"""Progress bars on one rank."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm as _bar

from notebook_accel import environment
from notebook_accel.core.runtime import active
from notebook_accel.world import World


def tqdm(*args: Any, main_process_only: bool = True, **kwargs: Any) -> Any:
    """Give tqdm's bar, which is drawn on the first rank of each machine only.

    Args:
        args: as ``tqdm.auto.tqdm`` takes them.
        main_process_only: False draws one on every rank.
        kwargs: as ``tqdm.auto.tqdm`` takes them.

    Example:
        >>> list(tqdm(range(3), disable=True))
        [0, 1, 2]
    """
    runtime = active()
    world = runtime.world if runtime is not None else environment.world_from_environment() or World()
    if main_process_only and not world.is_local_main:
        kwargs["disable"] = True
    return _bar(*args, **kwargs)
