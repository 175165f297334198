"""The runs of this process: which have not ended, what they hold, and which was the last."""

from __future__ import annotations

import threading
import time
from typing import Any

from notebook_accel.launch.run import Run


class Ledger:
    """Knows the runs of this process.

    Attributes:
        launching: held from the moment a run's devices are chosen until the run is entered here.
        last: the run that was started last, if any.
    """

    def __init__(self) -> None:
        self.launching = threading.RLock()
        self.last: Run[Any] | None = None
        self._running: list[Run[Any]] = []
        self._lock = threading.Lock()

    def enter(self, run: Run[Any]) -> None:
        """Take note of a run that has just been started."""
        self.last = run
        with self._lock:
            self._running.append(run)
        run.when_ended(lambda: self._remove(run))

    def _remove(self, run: Run[Any]) -> None:
        with self._lock:
            self._running.remove(run)

    def running(self) -> list[Run[Any]]:
        """Give the runs that have not ended."""
        with self._lock:
            return [run for run in self._running if run.state == "running"]

    def holders(self) -> dict[str, str]:
        """Say by whom a device is held, by its selector."""
        now = time.monotonic()
        return {
            device.selector: f"the run of {run.name} (started {now - run.started_at:.0f} s ago)"
            for run in self.running()
            for device in run.plan.devices
        }
