"""``notebook_launcher``: the one call that a notebook makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, TypeVar, overload

from notebook_accel.config import (
    AccelerateArguments,
    DeviceChoice,
    HangAction,
    Logs,
    Precision,
    Returns,
    RunConfig,
    StartMethod,
    check_call,
)
from notebook_accel.errors import ConfigError
from notebook_accel.launch.job import Call
from notebook_accel.launch.result import RunResult
from notebook_accel.launch.run import Run
from notebook_accel.launch.start import run_in_cell, start_in_background

R = TypeVar("R")


@overload
def notebook_launcher(
    function: Callable[..., R],
    args: tuple[Any, ...] = ...,
    num_processes: int | None = ...,
    mixed_precision: Precision = ...,
    use_port: str | int | None = ...,
    master_addr: str = ...,
    node_rank: int = ...,
    num_nodes: int = ...,
    rdzv_backend: str = ...,
    rdzv_endpoint: str = ...,
    rdzv_conf: Mapping[str, Any] | None = ...,
    rdzv_id: str = ...,
    max_restarts: int = ...,
    monitor_interval: float = ...,
    log_line_prefix_template: str | None = ...,
    *,
    kwargs: Mapping[str, Any] | None = ...,
    start_method: StartMethod | None = ...,
    devices: DeviceChoice | Sequence[int] = ...,
    preload: Sequence[str] = ...,
    seed: int | None = ...,
    threads_per_rank: int | None = ...,
    by_value: Sequence[str | ModuleType] = ...,
    returns: Returns = ...,
    logs: Logs = ...,
    timeout_seconds: float | None = ...,
    hang_timeout_seconds: float | None = ...,
    hang_action: HangAction = ...,
    resume: Literal["auto"] | None = ...,
    block: Literal[True] = ...,
) -> RunResult[R]: ...


@overload
def notebook_launcher(
    function: Callable[..., R],
    args: tuple[Any, ...] = ...,
    num_processes: int | None = ...,
    mixed_precision: Precision = ...,
    use_port: str | int | None = ...,
    master_addr: str = ...,
    node_rank: int = ...,
    num_nodes: int = ...,
    rdzv_backend: str = ...,
    rdzv_endpoint: str = ...,
    rdzv_conf: Mapping[str, Any] | None = ...,
    rdzv_id: str = ...,
    max_restarts: int = ...,
    monitor_interval: float = ...,
    log_line_prefix_template: str | None = ...,
    *,
    kwargs: Mapping[str, Any] | None = ...,
    start_method: StartMethod | None = ...,
    devices: DeviceChoice | Sequence[int] = ...,
    preload: Sequence[str] = ...,
    seed: int | None = ...,
    threads_per_rank: int | None = ...,
    by_value: Sequence[str | ModuleType] = ...,
    returns: Returns = ...,
    logs: Logs = ...,
    timeout_seconds: float | None = ...,
    hang_timeout_seconds: float | None = ...,
    hang_action: HangAction = ...,
    resume: Literal["auto"] | None = ...,
    block: Literal[False],
) -> Run[R]: ...


def notebook_launcher(  # noqa: PLR0913, PLR0917 - the signature that Accelerate's users know, and ours
    function: Callable[..., R],
    args: tuple[Any, ...] = (),
    num_processes: int | None = None,
    mixed_precision: Precision = "no",
    use_port: str | int | None = None,
    master_addr: str = "127.0.0.1",
    node_rank: int = 0,
    num_nodes: int = 1,
    rdzv_backend: str = "static",
    rdzv_endpoint: str = "",
    rdzv_conf: Mapping[str, Any] | None = None,
    rdzv_id: str = "none",
    max_restarts: int = 0,
    monitor_interval: float = 0.1,
    log_line_prefix_template: str | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    start_method: StartMethod | None = None,
    devices: DeviceChoice | Sequence[int] = "auto",
    preload: Sequence[str] = (),
    seed: int | None = None,
    threads_per_rank: int | None = None,
    by_value: Sequence[str | ModuleType] = (),
    returns: Returns = "all",
    logs: Logs = "all",
    timeout_seconds: float | None = None,
    hang_timeout_seconds: float | None = 120.0,
    hang_action: HangAction = "report",
    resume: Literal["auto"] | None = None,
    block: bool = True,
) -> RunResult[R] | Run[R]:
    """Run a function on several ranks and hand back what each returned.

    The ranks are forked from a warm helper process that has torch loaded, never from this one, so whatever this
    process has done before (CUDA included) does not matter. The function, the classes and the variables of the
    notebook that it uses travel with it. Whatever the ranks print appears here, rank 0's lines plain.

    Args:
        function: what every rank calls; it builds its ``Accelerator`` itself, or plain torch.distributed.
        args: its positional arguments.
        num_processes: number of ranks; None takes every device found, on a CPU-only machine two.
        mixed_precision: "no", "bf16" or "fp16", for the ``Accelerator`` in the ranks.
        use_port: port of the rendezvous store; None lets the system choose a free one.
        master_addr: loopback; other machines are not built yet.
        node_rank: 0; other machines are not built yet.
        num_nodes: 1; other machines are not built yet.
        rdzv_backend: "static" or "c10d", the same on one machine; others are not built yet.
        rdzv_endpoint: "" or "localhost:port", as ``use_port``; other machines are not built yet.
        rdzv_conf: how long machines wait for each other; on one machine no rank waits for another to appear.
        rdzv_id: name of the run, TORCHELASTIC_RUN_ID in the ranks; "none" makes one up.
        max_restarts: how often a run whose function fails is started again, under a new supervisor.
        monitor_interval: longest time in seconds until a dead rank is noticed; it is noticed at once.
        log_line_prefix_template: label before each line of output, of ``${rank}``, ``${local_rank}``, ``${role_name}``.
        kwargs: the function's keyword arguments.
        start_method: "forkserver" (default on Linux), "fork" (from this process: nothing is pickled, all it holds is
            there; refused where CUDA or XLA is initialised in it), "spawn" (fresh interpreters; default on macOS), or
            "inline" (in this process, one rank, for debugging).
        devices: "auto", "cpu", "cuda", "mps", "tpu", or GPU numbers as this process sees them.
        preload: modules that the helper process imports once, for functions that import something slow.
        seed: seed of Python's, NumPy's and torch's generators, the same on every rank; None means fresh entropy.
        threads_per_rank: intra-op threads; None means OMP_NUM_THREADS where set, else cores // ranks. One with "fork".
        by_value: modules, or names of modules, whose functions and classes travel as they are here; others are
            imported by the ranks.
        returns: "all", or "rank0" where the other ranks' values need not travel.
        logs: of whom output, bars and displays are shown: "all", "rank0" or "none"; ``result.logs(rank)`` has all.
        timeout_seconds: wall clock of the run from this call on; then the ranks are interrupted, and ``RunTimedOut``
            says where each was.
        hang_timeout_seconds: when no rank has printed, ended or moved for so long, it is said which ranks wait in which
            collective and which is elsewhere; None or 0 never looks. A rank moves that takes part in collectives or
            steps its optimizer, and on CPUs one that computes.
        hang_action: "report", or "stop" to interrupt such a run as well: ``RunHung`` holds the report.
        resume: "auto" lets ``accelerator.resume()`` in the function load the last complete checkpoint of its project,
            as it does after a restart; None begins anew.
        block: False gives a ``Run`` at once, which goes on in the background.

    Returns:
        A ``RunResult``: ``.value`` of rank 0, ``[rank]`` of any, ``.logs(rank)``. With ``block=False`` a ``Run``.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        NotAvailableError: an argument cannot be honoured here; nothing was started.
        PayloadError: the function or an argument cannot be sent to the ranks; nothing was started.
        RankFailed: the function failed on a rank, or a rank was killed.
        RunTimedOut: the run had taken its ``timeout_seconds``.
        RunHung: no rank had moved for ``hang_timeout_seconds``, and ``hang_action="stop"``.
        LaunchError: the launcher's own processes failed.
        KeyboardInterrupt: the cell was interrupted; every rank has ended.

    Source: https://huggingface.co/docs/accelerate/package_reference/launchers (names of the first 15 arguments)

    Example:
        >>> def train(learning_rate):
        ...     return learning_rate * 2
        >>> notebook_launcher(train, args=(0.5,), num_processes=1, start_method="inline").value
        notebook_accel: 1 CPU process, in this process
        1.0
    """
    check_call(function, args, kwargs)
    if not isinstance(block, bool):
        raise ConfigError(f"block must be True or False, not {block!r}", "block=False gives a Run at once")
    meeting = AccelerateArguments(
        master_addr=master_addr,
        node_rank=node_rank,
        num_nodes=num_nodes,
        rdzv_backend=rdzv_backend,
        rdzv_endpoint=rdzv_endpoint,
        rdzv_conf=rdzv_conf,
        monitor_interval=monitor_interval,
    )
    config = RunConfig(
        num_processes=num_processes,
        mixed_precision=mixed_precision,
        start_method=start_method,
        devices=devices,  # type: ignore[arg-type]  # checked and made a tuple there
        preload=preload,  # type: ignore[arg-type]  # checked and made a tuple there
        seed=seed,
        threads_per_rank=threads_per_rank,
        port=meeting.port(use_port),
        run_id=None if rdzv_id in ("", "none") else rdzv_id,
        log_prefix=log_line_prefix_template,
        returns=returns,
        logs=logs,
        timeout_seconds=timeout_seconds,
        hang_timeout_seconds=hang_timeout_seconds,
        hang_action=hang_action,
        resume=resume,
        max_restarts=max_restarts,
        by_value=by_value,  # type: ignore[arg-type]  # checked and made a tuple of names there
    )
    call = Call(function, args, dict(kwargs or {}))
    return run_in_cell(config, call) if block else start_in_background(config, call)


def debug_launcher(function: Callable[..., R], args: tuple[Any, ...] = (), num_processes: int = 2) -> RunResult[R]:
    """Run a function on CPU ranks, whatever devices there are: a rehearsal.

    Args:
        function: what every rank calls.
        args: its positional arguments.
        num_processes: number of ranks.

    Raises:
        ConfigError, PayloadError, RankFailed, LaunchError, KeyboardInterrupt: as ``notebook_launcher``.

    Example:
        >>> debug_launcher(max, args=(1, 2), num_processes=2).value  # doctest: +SKIP
        2
    """
    return run_in_cell(RunConfig(num_processes=num_processes, devices="cpu"), Call(function, args))
