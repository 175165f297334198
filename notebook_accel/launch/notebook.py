"""``notebook_launcher``: the one call that a notebook makes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from notebook_accel import environment
from notebook_accel.config import (
    AccelerateArguments,
    DeviceChoice,
    Precision,
    RunConfig,
    StartMethod,
    check_call,
    checked_port,
)
from notebook_accel.errors import NotAvailableError
from notebook_accel.hardware.probe import probe
from notebook_accel.launch.forkserver import ForkserverSpawner
from notebook_accel.launch.inline import InlineSpawner
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import LaunchPlan, make_plan
from notebook_accel.launch.result import RunResult
from notebook_accel.launch.spawner import Run

R = TypeVar("R")


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
    block: Literal[True] = True,
) -> RunResult[R]:
    """Run a function on several ranks and hand back what each returned.

    The ranks are forked from a warm helper process that has torch loaded, never from this one, so whatever this
    process has done before (CUDA included) does not matter. The function, the classes and the variables of the
    notebook that it uses travel with it. Whatever the ranks print appears here, rank 0's lines plain.

    Args:
        function: what every rank calls; it builds its ``Accelerator`` itself, or plain torch.distributed.
        args: its positional arguments.
        num_processes: number of ranks; None takes every device found, on a CPU-only machine two.
        mixed_precision: "no" or "bf16", for the ``Accelerator`` in the ranks.
        use_port: port of the rendezvous store; None lets the system choose a free one.
        master_addr: loopback; other machines are not built yet.
        node_rank: 0; other machines are not built yet.
        num_nodes: 1; other machines are not built yet.
        rdzv_backend: "static"; other machines are not built yet.
        rdzv_endpoint: ""; other machines are not built yet.
        rdzv_conf: None; other machines are not built yet.
        rdzv_id: "none"; other machines are not built yet.
        max_restarts: 0; restarts are not built yet.
        monitor_interval: longest time in seconds until a dead rank is noticed; it is noticed at once.
        log_line_prefix_template: label before each line of output, of ``${rank}``, ``${local_rank}``, ``${role_name}``.
        kwargs: the function's keyword arguments.
        start_method: "forkserver" (default) or "inline" (in this process, one rank, for debugging).
        devices: "auto", "cpu", "cuda", "mps", or GPU numbers as this process sees them.
        preload: modules that the helper process imports once, for functions that import something slow.
        seed: seed of Python's, NumPy's and torch's generators, the same on every rank; None means fresh entropy.
        threads_per_rank: intra-op threads; None means OMP_NUM_THREADS where set, else cores // ranks.
        block: True; a run in the background is not built yet.

    Returns:
        A ``RunResult``: ``.value`` of rank 0, ``[rank]`` of any, ``.logs(rank)``.

    Raises:
        ConfigError: an argument is wrong; nothing was started.
        NotAvailableError: an argument cannot be honoured here; nothing was started.
        PayloadError: the function or an argument cannot be sent to the ranks; nothing was started.
        RankFailed: the function failed on a rank, or a rank was killed.
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
    AccelerateArguments(
        master_addr=master_addr,
        node_rank=node_rank,
        num_nodes=num_nodes,
        rdzv_backend=rdzv_backend,
        rdzv_endpoint=rdzv_endpoint,
        rdzv_conf=rdzv_conf,
        rdzv_id=rdzv_id,
        max_restarts=max_restarts,
        monitor_interval=monitor_interval,
    )
    if block is not True:
        raise NotAvailableError(f"block={block!r}: a run in the background is not built yet", "leave block out")
    config = RunConfig(
        num_processes=num_processes,
        mixed_precision=mixed_precision,
        start_method=start_method,
        devices=devices,  # type: ignore[arg-type]  # checked and made a tuple there
        preload=preload,  # type: ignore[arg-type]  # checked and made a tuple there
        seed=seed,
        threads_per_rank=threads_per_rank,
        port=checked_port(use_port),
        log_prefix=log_line_prefix_template,
    )
    plan = make_plan(config, probe(), environment.requested_threads())
    return run_in_cell(plan, Call(function, args, dict(kwargs or {})))


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
    return notebook_launcher(function, args, num_processes=num_processes, devices="cpu")


def run_in_cell(plan: LaunchPlan, call: Call) -> RunResult[Any]:
    """Run to the end in the foreground: say what runs, show the output, pass interrupts on."""
    _say(str(plan))
    if plan.start_method == "inline":
        return InlineSpawner().start(plan, call).result()
    spawner = ForkserverSpawner()
    run = spawner.start(plan, call)
    try:
        for notice in spawner.notices:
            _say(notice)
        _show_until_end(run)
    except BaseException:
        run.kill()
        raise
    result = run.result()
    for notice in run.notices():
        _say(notice)
    return result


def _show_until_end(run: Run) -> None:
    interrupts = 0
    while True:
        try:
            for text in run.output():
                sys.stdout.write(text)
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts == 1:
                _say("interrupting the ranks; interrupt again to end them at once")
                run.interrupt()
            else:
                run.kill()
        else:
            return


def _say(text: str) -> None:
    sys.stdout.write(f"notebook_accel: {text}\n")
