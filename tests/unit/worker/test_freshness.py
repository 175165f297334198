from __future__ import annotations

import atexit
import contextlib
import ctypes
import linecache
import logging
import logging.handlers
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from notebook_accel.wire.control import StartRun
from notebook_accel.wire.pickling import JobPickler
from notebook_accel.worker import freshness, system
from notebook_accel.world import World
from tests.unit.worker.forks import in_a_fork


def start_of(folder: Path, **more: object) -> StartRun:
    given = {
        "run_id": "run-7",
        "world_size": 2,
        "device_kind": "cpu",
        "mixed_precision": "no",
        "seed": None,
        "threads_per_rank": 1,
        "port": 1234,
        "grace_seconds": 1.0,
        "stop_at_seconds": float("inf"),
        "returns": "all",
        "restart_count": 0,
        "max_restarts": 0,
        "resumes": False,
        "environ": {"ONLY": "this", "RANK": "the kernel's own"},
        "cwd": str(folder),
        "sys_path": ("/first", "/second"),
        "sources": {"<cell 3>": ["def f():\n", "    return 1\n"]},
    }
    return StartRun(**{**given, **more})


def test_every_way_to_print_goes_into_the_pipe():
    read_end, write_end = os.pipe()

    def speak() -> bool:
        freshness.redirect_output(write_end)
        print("line by line")
        sys.stderr.write("err gr\u00fcn \udc80\n")
        sys.__stdout__.write("original\n")
        os.write(1, b"raw\n")
        ctypes.CDLL(None).puts(b"from C")
        system.flush_c_streams()
        with contextlib.suppress(OSError):
            os.fstat(write_end)
            return False
        return (sys.stdout, sys.stderr) == (sys.__stdout__, sys.__stderr__)

    assert in_a_fork(speak)
    os.close(write_end)
    with open(read_end, "rb") as file:
        assert file.read().decode() == "line by line\nerr gr\u00fcn \\udc80\noriginal\nraw\nfrom C\n"


def test_only_an_ordered_interrupt_is_one():
    def interrupt() -> tuple[object, ...]:
        ordered: list[bool] = []
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        freshness.take_interrupts(lambda: bool(ordered))
        signal.raise_signal(signal.SIGINT)
        ordered.append(True)
        try:
            signal.raise_signal(signal.SIGINT)
            heard = False
        except KeyboardInterrupt:
            heard = True
        return heard, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)

    assert in_a_fork(interrupt) == (True, signal.SIG_DFL, signal.SIG_DFL)


def test_an_interrupt_that_a_finalizer_has_dropped_is_raised_again_after_it(capfd: pytest.CaptureFixture[str]):
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    class Broken:
        def __del__(self) -> None:
            raise ValueError("said as ever")

    def interrupt() -> str:
        sys.unraisablehook = sys.__unraisablehook__
        freshness.take_interrupts(lambda: True)
        Broken()
        try:
            Interrupted()  # dropped in the finalizer
            after = "came past it"
            threading.Event().wait(20)
        except KeyboardInterrupt:
            return after
        return "heard nothing"

    assert in_a_fork(interrupt) == "came past it"
    said = capfd.readouterr().err
    assert "ValueError: said as ever" in said
    assert "KeyboardInterrupt" not in said


def test_surroundings_are_the_kernels_and_the_place_is_the_ranks(tmp_path: Path):
    world = World(rank=1, world_size=2, local_rank=1, local_world_size=2, master_port=1234, agent_store=True)

    def look() -> tuple[object, ...]:
        freshness.take_surroundings(start_of(tmp_path, mixed_precision="bf16"), world)
        return os.getcwd(), sys.path, sys.argv, dict(os.environ), linecache.getline("<cell 3>", 2)

    folder, path, arguments, variables, line = in_a_fork(look)
    assert (folder, path, arguments, line) == (str(tmp_path), ["/first", "/second"], [""], "    return 1\n")
    assert variables == {"ONLY": "this", **world.to_env("run-7", "bf16")}
    assert (variables["RANK"], variables["TORCHELASTIC_RUN_ID"]) == ("1", "run-7")


def test_exit_handlers_of_the_zygote_are_dropped_and_those_of_the_standard_library_run(tmp_path: Path):
    inherited = tempfile.TemporaryDirectory(dir=tmp_path)
    logger = logging.getLogger("of the rank")

    def end() -> tuple[object, ...]:
        called: list[object] = []
        atexit.register(called.append, "of the zygote")
        freshness.take_exit_handlers()
        atexit.register(called.append, "of the rank")
        buffering = logging.handlers.MemoryHandler(100, target=logging.FileHandler(tmp_path / "log"))
        logger.addHandler(buffering)
        logger.warning("buffered")
        own = tempfile.TemporaryDirectory(dir=tmp_path)
        child = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
        child.start()
        atexit._run_exitfuncs()
        return called, Path(own.name).exists(), Path(inherited.name).exists(), child.exitcode

    with inherited:
        assert in_a_fork(end) == (["of the rank"], False, True, -signal.SIGTERM)
    assert (tmp_path / "log").read_text() == "buffered\n"


def test_sources_survive_a_check_of_the_files(tmp_path: Path):
    def look() -> str:
        freshness.take_surroundings(start_of(tmp_path), World())
        linecache.checkcache()
        return linecache.getline("<cell 3>", 1)

    assert in_a_fork(look) == "def f():\n"


@pytest.mark.parametrize("count", [1, 3])
def test_threads(count: int):
    def take() -> tuple[int, set[int]]:
        freshness.take_threads(count)
        pools = freshness.thread_pools()
        return torch.get_num_threads(), {pool["num_threads"] for pool in pools.info() if pool["user_api"] == "blas"}

    threads, blas = in_a_fork(take)
    assert threads == count
    assert blas <= {count}


def draws(seed: int | None) -> tuple[float, ...]:
    freshness.take_random_state(seed)
    return random.random(), float(np.random.rand()), torch.rand(1).item()  # noqa: NPY002 - the global generator is the point


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 7, 2**63])
def test_a_seed_is_the_same_for_every_fork(seed: int):
    first, second = in_a_fork(draws, seed), in_a_fork(draws, seed)
    assert first == second
    assert all(a != b for a, b in zip(first, in_a_fork(draws, seed + 1), strict=True))


def test_without_a_seed_every_fork_draws_its_own():
    first, second = in_a_fork(draws, None), in_a_fork(draws, None)
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_main_is_empty_and_takes_what_the_function_sees():
    notebook = types.ModuleType("__main__")
    exec("import math\nclass Used: pass\nclass Sent: pass\nfactor = 2\ndef f(): return Used", notebook.__dict__)
    JobPickler().parcel(notebook.Sent)

    def fill() -> tuple[object, ...]:
        module = freshness.clean_main()
        emptied = sys.modules["__main__"] is module and [n for n in vars(module) if not n.startswith("__")] == []
        freshness.fill_main(module, notebook.f)
        return emptied, module.Used is notebook.Used, module.factor, module.Sent is notebook.Sent, module.__spec__

    assert in_a_fork(fill) == (True, True, 2, True, None)


@pytest.mark.parametrize("function", [len, os.path.join, int])
def test_a_function_of_a_module_puts_nothing_of_it_into_main(function: object):
    def fill() -> set[str]:
        module = freshness.clean_main()
        freshness.fill_main(module, function)
        return {name for name in vars(module) if not name.startswith("__")}

    assert in_a_fork(fill) & {"genericpath", "join", "splitroot", "os"} == set()


def test_a_class_within_a_function_is_not_put_into_main():
    notebook = types.ModuleType("__main__")
    exec("def make():\n    class Inner: pass\n    return Inner\nInner = make()", notebook.__dict__)
    JobPickler().parcel(notebook.Inner)

    def fill() -> bool:
        module = freshness.clean_main()
        freshness.fill_main(module, len)
        return hasattr(module, "Inner")

    assert not in_a_fork(fill)
