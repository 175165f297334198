"""What kernel, zygote and supervisor tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from notebook_accel.world import DeviceKind


@dataclass(frozen=True, kw_only=True)
class StartRun:
    """Kernel to zygote: start a run.

    With it travel, in this order, descriptors for the control socket, the job's parcel, the store's listening
    socket, and for each rank the write end of its output pipe, its end of the event socket, and its empty result file.

    Attributes:
        run_id: name of the run, unique in this kernel.
        world_size: number of ranks.
        device_kind: what the ranks compute on.
        mixed_precision: what an ``Accelerator`` in a rank uses.
        seed: seed of all generators, None for fresh entropy.
        threads_per_rank: intra-op threads of each rank.
        port: port of the store.
        grace_seconds: how long other ranks may go on after one failed.
        environ: the ranks' environment.
        cwd: the ranks' working directory.
        sys_path: the ranks' module search path.
        sources: lines of code that lies in no file, by its file name.
    """

    run_id: str
    world_size: int
    device_kind: DeviceKind
    mixed_precision: str
    seed: int | None
    threads_per_rank: int
    port: int
    grace_seconds: float
    environ: dict[str, str]
    cwd: str
    sys_path: tuple[str, ...]
    sources: dict[str, list[str]]


@dataclass(frozen=True)
class Refusal:
    """Why a module must not be preloaded.

    Attributes:
        importable: False when it cannot be imported at all.
        reason: why, in words that follow the module's name or "because".
    """

    importable: bool
    reason: str


@dataclass(frozen=True)
class Preloaded:
    """Zygote to kernel: the preload is done.

    Attributes:
        refused: modules that must not be preloaded, by name.
    """

    refused: dict[str, Refusal]


@dataclass(frozen=True)
class Interrupt:
    """Kernel to supervisor: raise KeyboardInterrupt in every rank, kill what does not end."""


@dataclass(frozen=True)
class Kill:
    """Kernel to supervisor: end every rank now."""


@dataclass(frozen=True)
class RankExited:
    """Supervisor to kernel: a rank was reaped.

    Attributes:
        rank: which rank.
        exit_code: its exit code, or minus the number of the signal that ended it.
        at_seconds: when, on the monotonic clock.
        ended_by_us: True when the supervisor had told it to end.
    """

    rank: int
    exit_code: int
    at_seconds: float
    ended_by_us: bool


@dataclass(frozen=True)
class SupervisorFailed:
    """Supervisor to kernel: the machinery broke; every rank has been ended."""

    traceback: str
