"""Where a rank keeps the programs that XLA has compiled, so that the next launch finds them."""

from __future__ import annotations

import importlib
import sys
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
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # a full or read-only disk: the run needs no folder
        if rank == 0:
            why = f"{error.strerror}: {error.filename}"
            sys.stderr.write(f"compiled programs are not kept for the next launch ({why}); set NOTEBOOK_ACCEL_HOME\n")
        return
    importlib.import_module("torch_xla.runtime").initialize_cache(str(own))
