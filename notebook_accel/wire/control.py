"""What kernel, zygote and supervisor tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from notebook_accel.world import DeviceKind


@dataclass(frozen=True, kw_only=True)
class StartRun:
    """Kernel to zygote: start a run.

    With it travel, in this order, descriptors for the supervisor's end of the control socket (where it was not
    received on it), the store's listening socket, for each rank the write end of its output pipe, its end of the event
    socket and its empty result file, and then, where the call is pickled, the job's parcel and the shared objects.

    Attributes:
        run_id: name of the run, unique in this kernel.
        world_size: number of ranks.
        device_kind: what the ranks compute on.
        mixed_precision: what an ``Accelerator`` in a rank uses.
        seed: seed of all generators, None for fresh entropy.
        threads_per_rank: intra-op threads of each rank.
        port: port of the store.
        grace_seconds: how long other ranks may go on after one failed.
        stop_at_seconds: when the run has had its time, on the monotonic clock; infinite for as long as it takes.
        returns: whose value is sent back, "all" or "rank0".
        restart_count: how often the run was started before.
        max_restarts: how often it may be.
        resumes: the run is to go on from its last checkpoint.
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
    stop_at_seconds: float
    returns: str
    restart_count: int
    max_restarts: int
    resumes: bool
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
class Supervising:
    """Supervisor to kernel: it is there, and gives birth to the ranks now."""


@dataclass(frozen=True)
class Interrupt:
    """Kernel to supervisor: raise KeyboardInterrupt in every rank, kill what does not end."""


@dataclass(frozen=True)
class RequestStop:
    """Kernel to supervisor: let every rank know that it should end by itself."""


@dataclass(frozen=True)
class Kill:
    """Kernel to supervisor: end every rank now."""


@dataclass(frozen=True)
class TellStacks:
    """Kernel to supervisor: say where every rank is.

    Attributes:
        number: what the answer is to be called.
        all_threads: False for the main thread alone.
    """

    number: int
    all_threads: bool


@dataclass(frozen=True)
class Computed:
    """How much processor time a process has used.

    Attributes:
        main_thread_seconds: its main thread, None where the system does not say.
        all_threads_seconds: all threads together, None where the system does not say.
    """

    main_thread_seconds: float | None = None
    all_threads_seconds: float | None = None


@dataclass(frozen=True)
class Stacks:
    """Supervisor to kernel: where every rank is whose process has not ended.

    Attributes:
        number: which question this answers.
        stacks: what faulthandler wrote, by rank; empty where a rank has not answered.
        computed: how long it has computed in all, by rank.
        progress: how many collectives and optimizer steps it had begun when it said so last, by rank.
    """

    number: int
    stacks: dict[int, str]
    computed: dict[int, Computed]
    progress: dict[int, int]


@dataclass(frozen=True)
class RankExited:
    """Supervisor to kernel: a rank was reaped.

    Attributes:
        rank: which rank.
        exit_code: its exit code, or minus the number of the signal that ended it.
        at_seconds: when, on the monotonic clock.
        ended_by_us: True when the supervisor had told it to end.
        told_at_seconds: when it was interrupted, None if it was not.
        peak_rss_bytes: the most memory it had in use, None where the system does not say.
    """

    rank: int
    exit_code: int
    at_seconds: float
    ended_by_us: bool
    told_at_seconds: float | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class Interrupted:
    """Supervisor to kernel: the ranks are interrupted, because that was ordered or because the run has had its time.

    Attributes:
        at_seconds: when, on the monotonic clock.
        stacks: where the ranks were just before whose function had begun and not ended, by rank: what faulthandler
            wrote, empty where it wrote nothing.
        timed_out: whether the run has had its time.
    """

    at_seconds: float
    stacks: dict[int, str]
    timed_out: bool


@dataclass(frozen=True)
class SupervisorFailed:
    """Supervisor to kernel: the machinery broke; every rank has been ended."""

    traceback: str
