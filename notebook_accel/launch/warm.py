"""Start the helper process ahead of the first launch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from notebook_accel.config import RunConfig
from notebook_accel.errors import AccelError
from notebook_accel.launch import forkserver


def warm(preload: Sequence[str] = ()) -> None:
    """Start the helper process that ranks are forked from, if it does not run yet; returns at once without preload.

    Args:
        preload: modules that it imports once, as in ``notebook_launcher``.

    Raises:
        ConfigError: a module cannot be imported.
        LaunchError: the helper process cannot be started.

    Example:
        >>> import notebook_accel
        >>> notebook_accel.warm()
    """
    config = RunConfig(preload=preload)  # type: ignore[arg-type]  # checked and made a tuple there
    for notice in forkserver.warm(config.preload):
        sys.stdout.write(f"notebook_accel: {notice}\n")


def warm_quietly() -> None:
    """Warm without a word: what is wrong is said by the launch that needs it."""
    if sys.platform != "linux":
        return
    try:
        forkserver.warm()
    except (AccelError, OSError):
        return
