"""Make a forked rank look like a fresh process to the function that runs in it."""

from __future__ import annotations

import _thread
import atexit
import faulthandler
import functools
import linecache
import logging
import multiprocessing.util
import os
import random
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch

from notebook_accel import environment
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import children, system
from notebook_accel.world import World

_AFTER_FINALIZER_SECONDS = 0.01


def redirect_output(write_end: int) -> None:
    """Send everything the process prints, from Python or from C, into the rank's pipe."""
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.close(write_end)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(  # noqa: SIM115 - it lives as long as the process
            descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable(file=2)


def tell_stack_on_request(file: int) -> None:
    """Write to ``file`` where the rank is whenever the supervisor asks, also while native code runs.

    The main thread alone answers by itself, which is safe at any time. To read other threads while they run is the best
    that can be done, as everywhere in faulthandler, so only a person asks for that.
    """
    faulthandler.register(system.STACK_SIGNAL, file=file, all_threads=False)
    faulthandler.register(system.ALL_STACKS_SIGNAL, file=file, all_threads=True)


def take_interrupts(was_ordered: Callable[[], bool]) -> None:
    """Raise KeyboardInterrupt on a SIGINT that the supervisor ordered, and on no other.

    Front ends signal the kernel's whole process tree; whether that means this run is not theirs to say. Python drops
    what is raised in a finalizer or a callback from C: an interrupt that ends there is raised again after it.
    """
    say_dropped = sys.unraisablehook

    def on_interrupt(_number: int, _frame: types.FrameType | None) -> None:
        if was_ordered():
            raise KeyboardInterrupt

    def on_dropped(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt) and was_ordered():
            # A Thread would take locks, which the code that the finalizer cut in on may hold.
            _thread.start_new_thread(_interrupt_again, (threading.get_ident(),))
        else:
            say_dropped(dropped)

    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, on_interrupt)
    sys.unraisablehook = on_dropped


def _interrupt_again(main_thread: int) -> None:
    time.sleep(_AFTER_FINALIZER_SECONDS)
    signal.pthread_kill(main_thread, signal.SIGINT)


def take_surroundings(start: StartRun, world: World) -> None:
    """Take over the kernel's working directory, search path, environment and cell sources."""
    os.chdir(start.cwd)
    sys.path[:] = start.sys_path
    sys.argv = [""]
    environment.replace({**start.environ, **world.to_env(start.run_id, start.mixed_precision)})
    for name, lines in start.sources.items():
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)


def take_exit_handlers() -> None:
    """Forget what the zygote's modules wanted done at exit, but do what the standard library does at every exit.

    It registered that when the zygote imported it: finalizers (a ``TemporaryDirectory`` removes itself), the queues
    and processes of multiprocessing, and logging.
    """
    atexit._clear()  # noqa: SLF001 - there is no other way to drop them all
    for inherited in list(weakref.finalize._registry):  # type: ignore[attr-defined]  # noqa: SLF001 - no other list
        inherited.atexit = False  # what it would remove is the zygote's, and later ranks need it
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # noqa: SLF001 - the next one registers
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing.util._exit_function)  # type: ignore[attr-defined]  # noqa: SLF001 - as a fork of it does


def take_threads(count: int) -> None:
    """Use ``count`` threads inside an operation; the variables were read when the zygote loaded the libraries."""
    torch.set_num_threads(count)
    pools = thread_pools()
    if pools is not None:
        pools.limit(limits=count)


@functools.lru_cache(maxsize=1)
def thread_pools() -> Any:
    """Find the loaded libraries that have threads; it takes 25 ms, so the zygote does it once for all ranks."""
    try:
        from threadpoolctl import ThreadpoolController  # noqa: PLC0415 - optional: it also reaches NumPy's BLAS
    except ImportError:
        return None
    return ThreadpoolController()


def take_random_state(seed: int | None) -> None:
    """Seed every generator, or give each fresh entropy: forks of one process would all draw the same numbers."""
    numpy = sys.modules.get("numpy")
    if seed is None:
        random.seed()
        torch.default_generator.seed()  # GPU generators do not exist yet and will begin with entropy of their own
        if numpy is not None:
            numpy.random.seed()
        return
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


def clean_main() -> types.ModuleType:
    """Put an empty ``__main__`` in place of the zygote's."""
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    return module


def fill_main(module: types.ModuleType, function: Callable[..., Any]) -> None:
    """Let ``__main__`` hold what the function sees of the notebook, and the notebook's classes.

    Objects of the notebook's classes that a DataLoader worker sends to its rank are looked up there by name.
    """
    own = getattr(function, "__globals__", {})
    if own.get("__name__") == "__main__":
        module.__dict__.update({name: value for name, value in own.items() if not name.startswith("__")})
    children.fill_classes(module)
