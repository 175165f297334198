"""The kernel's handle on its zygote: the helper process that has torch loaded and forks each run from there."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO

from notebook_accel import environment
from notebook_accel.errors import ConfigError, LaunchError
from notebook_accel.launch import interpreter
from notebook_accel.wire import frames
from notebook_accel.wire.control import Preloaded, StartRun

_SHUTDOWN_SECONDS = 2.0
_ENDING_SECONDS = 0.5
# One thread until the fork: a pool that exists then hangs the ranks. The NVML check keeps torch off the CUDA driver.
_ZYGOTE_ENVIRON = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


@dataclass(frozen=True)
class ZygoteKey:
    """What a zygote is loaded with: when it changes, only a new zygote will do."""

    executable: str
    torch_origin: str | None
    variables: tuple[tuple[str, str], ...]
    preload: tuple[str, ...]

    @classmethod
    def of_this_process(cls, preload: tuple[str, ...]) -> ZygoteKey:
        """Describe the zygote that a launch needs now."""
        variables = tuple(item for item in environment.load_time_variables() if item[0] not in _ZYGOTE_ENVIRON)
        return cls(sys.executable, _torch_origin(), variables, preload)

    def serves(self, wanted: ZygoteKey) -> bool:
        """Whether a zygote with this key can serve a launch that wants ``wanted``: more preload does no harm."""
        return replace(self, preload=()) == replace(wanted, preload=()) and {*wanted.preload} <= {*self.preload}

    def difference(self, other: ZygoteKey) -> str:
        """Say in words what differs from ``other``."""
        changed = sorted({name for name, _ in set(self.variables) ^ set(other.variables)})
        if changed:
            return f"{', '.join(changed)} changed"
        return "another torch is found first" if self.torch_origin != other.torch_origin else "to preload more"


def _without_chips() -> dict[str, str]:
    """Keep torch from loading torch_tpu: a rank that is forked cannot use a TPU, but would start it when seeded."""
    return {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"} if importlib.util.find_spec("torch_tpu") else {}


def _torch_origin() -> str | None:
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


class Zygote:
    """One helper process.

    Args:
        key: what it is loaded with.
    """

    def __init__(self, key: ZygoteKey) -> None:
        self.key = key
        self._lock = threading.Lock()
        self._preloaded: Preloaded | None = None
        self._has_runs = False
        self._control, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the zygote
        with theirs:
            self._process = interpreter.start(
                "zygote.main",
                f"{theirs.fileno()}, {os.getpid()}, {list(key.preload)!r}",
                (theirs.fileno(),),
                self._log,
                {**_ZYGOTE_ENVIRON, **_without_chips()},
            )
        self._finalizer = weakref.finalize(self, _end, self._process, self._control, self._log)

    @property
    def pid(self) -> int:
        """The helper's process."""
        return self._process.pid

    def is_alive(self, patience_seconds: float = 0.0) -> bool:
        """Whether it still runs; its sockets close a moment before it is seen to have ended, hence the patience."""
        try:
            self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def preloaded(self) -> Preloaded:
        """Wait until everything is imported.

        Raises:
            LaunchError: it ended instead.
        """
        with self._lock:
            if self._preloaded is None:
                try:
                    message, _ = frames.receive(self._control)
                except (EOFError, OSError):
                    raise self.broken() from None
                assert isinstance(message, Preloaded)
                self._preloaded = message
            return self._preloaded

    def send(self, start: StartRun, descriptors: Sequence[int]) -> None:
        """Ask for a run; it begins as soon as everything is imported.

        Raises:
            OSError: the zygote is gone.
        """
        with self._lock:
            frames.send(self._control, start, descriptors)
            self._has_runs = True

    def broken(self) -> LaunchError:
        """Describe why the zygote ended, with the last lines that it printed."""
        return LaunchError(
            f"the launcher's helper process ended (exit code {self._process.poll()}):\n{interpreter.said(self._log)}",
            "if an import failed there, mend the installation; otherwise run the cell again, a new one is started",
        )

    def explain(self, problem: LaunchError) -> LaunchError:
        """Say why the zygote ended, where that is what broke a run."""
        if not self._finalizer.alive or self.is_alive(_ENDING_SECONDS):
            return problem  # it was replaced meanwhile, or has nothing to do with it
        return self.broken()

    def run_ended(self, *, begun: bool) -> None:
        """Do nothing: the zygote reaps the supervisors of its runs."""

    def close(self) -> None:
        """End it; its runs go on under their supervisors."""
        self._finalizer()

    def retire(self) -> None:
        """End it once it has started the runs that wait for its imports."""
        if self._has_runs:
            with suppress(LaunchError):
                self.preloaded()
        self.close()

    def forget(self) -> None:
        """In a forked child: let go of the parent's zygote without ending it."""
        self._finalizer.detach()
        self._control.close()
        self._log.close()
        self._process.returncode = 0  # it is the parent's child: keep Popen from waiting for it or warning


def _end(process: subprocess.Popen[bytes], control: socket.socket, log: IO[bytes]) -> None:
    control.close()
    try:
        process.wait(_SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()


class ZygoteKeeper:
    """Keeps the one warm zygote of this process, and replaces it when it no longer fits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        self._dropped: set[str] = set()  # modules of which it is known that they must not be preloaded

    def warm(self, preload: tuple[str, ...] = ()) -> list[str]:
        """Have a fitting zygote, started if need be; give what the user should know about it.

        Raises:
            ConfigError: a module of ``preload`` cannot be imported.
            LaunchError: the zygote cannot be started.
        """
        with self._lock:
            return self._ensure(preload)[1]

    def launch(self, preload: tuple[str, ...], start: StartRun, descriptors: Sequence[int]) -> tuple[Zygote, list[str]]:
        """Start a run; give the zygote that does it and what the user should know.

        Raises:
            ConfigError: a module of ``preload`` cannot be imported.
            LaunchError: no zygote can be started.
        """
        with self._lock:
            zygote, notices = self._ensure(preload)
            try:
                zygote.send(start, descriptors)
            except OSError:
                raise zygote.broken() from None
            except BaseException:  # interrupted in the middle of a message: the next one could not be understood
                zygote.close()
                self._zygote = None
                raise
            return zygote, notices

    def shut_down(self) -> None:
        """End the zygote, if there is one."""
        with self._lock:
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None

    def forget(self) -> None:
        """In a forked child of this process: the zygote is the parent's."""
        self._lock = threading.Lock()
        if self._zygote is not None:
            self._zygote.forget()
            self._zygote = None

    def _ensure(self, preload: tuple[str, ...]) -> tuple[Zygote, list[str]]:
        wanted = tuple(name for name in preload if name not in self._dropped)
        key = ZygoteKey.of_this_process(wanted)
        before, notices = self._zygote, []
        if before is not None and before.is_alive() and before.key.serves(key):
            return before, []
        if before is not None and not before.is_alive():
            notices.append("the helper process had ended and is started anew")
        elif before is not None:
            notices.append(f"the helper process is started anew: {key.difference(before.key)}")
            key = replace(key, preload=tuple(dict.fromkeys((*before.key.preload, *wanted))))
        zygote, more = self._start(key)
        if before is not None:
            before.retire()
        self._zygote = zygote
        return zygote, notices + more

    def _start(self, key: ZygoteKey) -> tuple[Zygote, list[str]]:
        """Start a zygote, without the modules that would make forking from it unsafe."""
        zygote = Zygote(key)
        refused = zygote.preloaded().refused if key.preload else {}
        if not refused:
            return zygote, []
        zygote.close()
        name, refusal = next(iter(refused.items()))
        if not refusal.importable:
            hint = "install it, or mend its name; modules beside the notebook need no preload, ranks import them"
            raise ConfigError(f"preload names {name!r}, which {refusal.reason}", hint)
        self._dropped.add(name)
        left = tuple(entry for entry in key.preload if entry != name)
        zygote, notices = self._start(replace(key, preload=left))
        return zygote, [f"{name} is not preloaded: {refusal.reason}; each rank imports it", *notices]
