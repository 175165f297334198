"""Where a rank keeps the programs that XLA has compiled, so that the next launch finds them."""

from __future__ import annotations

import importlib
from pathlib import Path

from notebook_accel import environment


def keep(rank: int) -> None:
    """Let XLA keep this rank's programs in its folder, unless the environment says where, or that it should not.

    Once a process, before anything was computed.

    Args:
        rank: each has a folder of its own: what is compiled differs, and two must not write one file.
    """
    folder = environment.compilations_folder()
    if folder is None:
        return
    own = Path(folder) / f"rank{rank}"
    own.mkdir(parents=True, exist_ok=True)
    importlib.import_module("torch_xla.runtime").initialize_cache(str(own))
