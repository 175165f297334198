"""Run a script on ranks: plan as a notebook's launch does, then leave the processes to torch's elastic launcher."""

from __future__ import annotations

import importlib.machinery
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from notebook_accel import environment
from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.hardware.probe import probe
from notebook_accel.launch.plan import LaunchPlan, make_plan
from notebook_accel.launch.tpu_runtime import RUNTIMES

EXIT_OF_TIMEOUT = 124  # as the program timeout(1) has it
_LOOPBACK = "127.0.0.1"
_PATIENCE_SECONDS = 40.0  # torch's launcher gives ranks 30 seconds to end when it is told to
_PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
# Nothing that lies in the working folder may shadow what the launcher imports.
_BOOT = (
    "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv.pop(1)]; "
    "from notebook_accel.worker.elastic import main; main()"
)


@dataclass(frozen=True)
class Target:
    """What every rank runs.

    Attributes:
        name: path of a script, or name of a module.
        arguments: what it is given.
        is_module: whether it is a module.
    """

    name: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def check(self) -> None:
        """Refuse what does not exist.

        Raises:
            ConfigError: there is no such script or module.
        """
        if self.is_module:
            first = self.name.partition(".")[0]
            if importlib.machinery.PathFinder.find_spec(first, [str(Path.cwd()), *sys.path]) is None:
                raise ConfigError(f"there is no module {first!r}", "install it, or go to the folder that it lies in")
            return
        script = Path(self.name)
        if not (script.is_file() or (script / "__main__.py").is_file()):
            what = f"there is no script {self.name!r}"
            raise ConfigError(what, "flags of the launch come before the script; -m runs a module")

    @property
    def words(self) -> tuple[str, ...]:
        """It on a command line."""
        return (*(("-m",) if self.is_module else ()), self.name, *self.arguments)


def plan_script(config: RunConfig) -> LaunchPlan:
    """Decide what a script would run on now.

    Raises:
        ConfigError: more ranks than devices, or no such device.
        NotAvailableError: ranks cannot compute on what was asked for, or no script can be launched on it.
    """
    plan = make_plan(config, probe(), environment.requested_threads())
    if plan.device_kind in RUNTIMES:
        what = "a script cannot be launched on a TPU yet: torch's launcher does not start its processes"
        raise NotAvailableError(what, 'use notebook_launcher() in a notebook, or devices="cpu"')
    return plan


def variables(plan: LaunchPlan) -> dict[str, str]:
    """Give what the environment of the ranks holds beside this process's, so that ``Accelerator()`` is that run."""
    own = environment.current()
    return {
        **{name: value for name, value in plan.defaults.items() if name not in own},
        **plan.environ,
        "ACCELERATE_MIXED_PRECISION": plan.config.mixed_precision,
        "ACCELERATE_USE_CPU": "true" if plan.device_kind == "cpu" else "false",
        **({"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": plan.config.log_prefix} if plan.config.log_prefix else {}),
    }


def torchrun_arguments(plan: LaunchPlan, target: Target, log_folder: str) -> list[str]:
    """Give the arguments for torch's launcher.

    Args:
        plan: what was decided.
        target: what every rank runs.
        log_folder: where it may keep files while it runs.

    Source: https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    config = plan.config
    if config.port:
        meeting = [f"--master-addr={_LOOPBACK}", f"--master-port={config.port}"]
    elif config.run_id is not None:
        meeting = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    else:
        meeting = ["--standalone"]
    return [
        "--nnodes=1",
        f"--nproc-per-node={plan.world_size}",
        *meeting,
        *([f"--rdzv-id={config.run_id}"] if config.run_id is not None else []),
        f"--local-addr={_LOOPBACK}",
        f"--max-restarts={config.max_restarts}",
        f"--log-dir={log_folder}",
        *(["--tee=3"] if config.log_prefix else []),
        *target.words,
    ]


def launch(config: RunConfig, target: Target, notices: list[str]) -> int:
    """Run ``target`` to its end; give its exit code, 128 + n where signal n ended it.

    Args:
        config: what was asked.
        target: what every rank runs.
        notices: what to say before it starts.

    Raises:
        ConfigError: it cannot be run so; nothing was started.
    """
    target.check()
    plan = plan_script(config)
    _check_port(config.port)
    for notice in [str(plan), *notices]:
        say(notice)
    with tempfile.TemporaryDirectory(prefix="notebook_accel_") as folder:
        command = [sys.executable, "-c", _BOOT, _PACKAGE_PARENT, *torchrun_arguments(plan, target, folder)]
        return _Launcher(command, {**environment.current(), **variables(plan)}).wait(config.timeout_seconds)


def say(text: str) -> None:
    """Say something in the command's name, beside what the script prints."""
    sys.stderr.write(f"notebook_accel: {text}\n")
    sys.stderr.flush()


def _check_port(port: int) -> None:
    if not port:
        return
    with socket.socket() as probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        try:
            probing.bind(("", port))
        except OSError as error:
            what = f"port {port} cannot be used: {error.strerror}"
            raise ConfigError(what, "leave port out, and a free one is taken") from None


class _Launcher:
    """torch's launcher in a process of its own; signals that reach this process go on to it.

    It is in a session of its own, so that Ctrl-C in a terminal reaches it once, through this process.

    Args:
        command: that starts it.
        variables: its whole environment.
    """

    _PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        self._received: list[int] = []
        self._descendants: list[psutil.Process] = []
        self._last_resort = threading.Timer(_PATIENCE_SECONDS, self._end_all)
        self._last_resort.daemon = True
        heard = [number for number in self._PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]  # as nohup asks
        # Until there is somebody to tell; the launcher inherits that, and listens when it can end without a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._PASSED_ON)
        self._before = {number: signal.signal(number, self._pass_on) for number in heard}
        try:
            self._process = subprocess.Popen(command, env=variables, start_new_session=True)  # noqa: S603 - our own
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._PASSED_ON)

    def wait(self, timeout_seconds: float | None) -> int:
        """Wait for its end; give the exit code."""
        timed_out = False
        try:
            try:
                code = self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                timed_out = True
                say(f"the script had its {timeout_seconds:g} seconds and is ended")
                self._stop(signal.SIGTERM)
                code = self._process.wait()
            self._kill_the_rest()
        finally:
            self._last_resort.cancel()
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if timed_out:
            return EXIT_OF_TIMEOUT
        if self._received:
            return 128 + self._received[0]
        return code if code >= 0 else 128 - code

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(number)
        if len(self._received) == 1:
            say("ending the ranks; once more ends them at once")
            self._stop(number)
        else:
            self._end_all()

    def _stop(self, number: int) -> None:
        self._note_descendants()
        self._process.send_signal(number)
        if self._last_resort.ident is None:
            self._last_resort.start()

    def _end_all(self) -> None:
        self._note_descendants()
        self._process.kill()  # before the ranks, whom it might start again
        self._kill_the_rest()

    def _note_descendants(self) -> None:
        """Remember who is there: ranks are in sessions of their own, and what they started may stay behind."""
        try:
            self._descendants += psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            pass

    def _kill_the_rest(self) -> None:
        for process in self._descendants:
            try:
                process.kill()  # psutil makes sure that the number is still that process's
            except psutil.Error:
                pass
