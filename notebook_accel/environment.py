"""The one module that touches the process environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from notebook_accel.errors import ConfigError
from notebook_accel.world import World

COMPILATIONS = "NOTEBOOK_ACCEL_COMPILATIONS"  # to a rank: where it keeps what XLA compiles
Ui = Literal["auto", "widgets", "html", "text", "off"]

# What front ends set in the kernels that they start for somebody who looks on; nbclient and papermill set none of them.
_FRONT_ENDS = ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID")

# Read when a library is loaded, so a process that has loaded them cannot take them over later.
_LOAD_TIME_PREFIXES = ("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "LD_", "DYLD_", "PYTHON", "TORCH_", "PYTORCH_")


def current() -> dict[str, str]:
    """Give a copy of this process's environment."""
    return dict(os.environ)


def load_time_variables() -> tuple[tuple[str, str], ...]:
    """Give the variables that libraries read while loading, sorted."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith(_LOAD_TIME_PREFIXES)))


def visible_cuda_devices() -> str | None:
    """Give CUDA_VISIBLE_DEVICES as it stands, None where unset."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def tpu_process_bounds() -> str | None:
    """Give TPU_PROCESS_BOUNDS, None where unset."""
    return os.environ.get("TPU_PROCESS_BOUNDS")


def pjrt_device() -> str | None:
    """Give PJRT_DEVICE, what torch_xla computes on; None where unset."""
    return os.environ.get("PJRT_DEVICE")


def compilations_folder() -> str | None:
    """Give where a rank is to keep compiled programs, None where it is not to, or the user has said where."""
    return None if "XLA_PERSISTENT_CACHE_PATH" in os.environ else os.environ.get(COMPILATIONS) or None


def home_folder() -> str:
    """Give the folder for what this package keeps between runs; it may not exist."""
    home = os.environ.get("NOTEBOOK_ACCEL_HOME")
    if home:
        return os.path.expanduser(home)  # noqa: PTH111 - a plain string, as in the variable
    base = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.path.join(os.path.expanduser(base), "notebook_accel")  # noqa: PTH111, PTH118 - the same


def notebook_path() -> str | None:
    """Give the path of the notebook that this kernel belongs to, None where the front end does not tell."""
    if os.environ.get("JPY_SESSION_NAME"):
        return os.environ["JPY_SESSION_NAME"]
    interactive = sys.modules.get("IPython.core.getipython")
    shell = interactive.get_ipython() if interactive is not None else None
    told = getattr(shell, "user_ns", {}).get("__vsc_ipynb_file__")  # VS Code's
    return told if isinstance(told, str) and told else None


def requested_threads() -> int | None:
    """Give the user's OMP_NUM_THREADS (its first level), None where unset or not a number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def replace(variables: Mapping[str, str]) -> None:
    """Make the environment of this process exactly ``variables``."""
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)


@contextmanager
def patched(variables: Mapping[str, str]) -> Iterator[None]:
    """Add ``variables`` for the duration of a block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        replace(before)


@contextmanager
def patch_environment(**variables: object) -> Iterator[None]:
    """Set variables for the duration of a block, in upper case, as Hugging Face Accelerate does.

    Args:
        variables: by name.

    Example:
        >>> with patch_environment(my_setting=1):
        ...     current()["MY_SETTING"]
        '1'
    """
    with patched({name.upper(): str(value) for name, value in variables.items()}):
        yield


@contextmanager
def clear_environment() -> Iterator[None]:
    """Have no variables at all for the duration of a block."""
    before = current()
    replace({})
    try:
        yield
    finally:
        replace(before)


def world_from_environment() -> World | None:
    """Read the place that torchrun (or a launcher that speaks its variables) gave this process.

    Raises:
        ConfigError: the variables are there but make no sense.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        return World(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
            device_kind="cpu",
            master_addr=os.environ.get("MASTER_ADDR", "127.0.0.1"),
            master_port=int(os.environ.get("MASTER_PORT", "0")),
            agent_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            restart_count=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )
    except ValueError as error:
        what = f"RANK, WORLD_SIZE, LOCAL_RANK, MASTER_PORT or TORCHELASTIC_RESTART_COUNT is not a number: {error}"
        raise ConfigError(what, "start the script with torchrun, or unset them") from None


def cpu_requested() -> bool:
    """True when ACCELERATE_USE_CPU asks for CPU ranks."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "on"}


def debug_requested() -> bool | None:
    """Give ACCELERATE_DEBUG_MODE: to compare what ranks send everywhere, or nowhere; None where it says neither."""
    said = os.environ.get("ACCELERATE_DEBUG_MODE", "").lower()
    if said in {"1", "true", "yes", "on"}:
        return True
    return False if said in {"0", "false", "no", "off"} else None


def log_level() -> str | None:
    """Give ACCELERATE_LOG_LEVEL, None where unset."""
    return os.environ.get("ACCELERATE_LOG_LEVEL") or None


def kaggle_run_type() -> str | None:
    """Give KAGGLE_KERNEL_RUN_TYPE, None on other platforms."""
    return os.environ.get("KAGGLE_KERNEL_RUN_TYPE") or None


def precision_from_environment() -> str:
    """Give ACCELERATE_MIXED_PRECISION, "no" where unset."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"


def in_notebook_kernel() -> bool:
    """True in a process whose IPython shell belongs to a Jupyter kernel."""
    interactive = sys.modules.get("IPython.core.getipython")
    shell = interactive.get_ipython() if interactive is not None else None
    return getattr(shell, "kernel", None) is not None


def ui() -> Ui:
    """Give NOTEBOOK_ACCEL_UI: how runs are shown, "auto" where unset.

    Raises:
        ConfigError: it is none of the words that mean something.
    """
    asked = os.environ.get("NOTEBOOK_ACCEL_UI", "").strip().lower() or "auto"
    for known in get_args(Ui):
        if asked == known:
            return known  # type: ignore[no-any-return]  # one of the words
    raise ConfigError(f"NOTEBOOK_ACCEL_UI={asked!r} is none of {', '.join(get_args(Ui))}", "unset it, or choose one")


def has_front_end() -> bool:
    """Say whether somebody seems to look at this kernel's notebook while it runs."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE", "Interactive") != "Interactive":
        return False
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return True
    return any(name in os.environ for name in _FRONT_ENDS)
