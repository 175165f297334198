"""A save that goes on while training does."""

from __future__ import annotations

import threading

from notebook_accel.core.checkpoints.agreement import Agreement
from notebook_accel.core.checkpoints.saving import Save
from notebook_accel.errors import AccelError, CheckpointError


class Background:
    """Runs a save in a thread of its own.

    Args:
        save: what is to be done; nobody else changes what it holds.
        agreement: how the ranks hear of each other, beside the collectives of training.
    """

    def __init__(self, save: Save, agreement: Agreement) -> None:
        self._save = save
        self._agreement = agreement
        self._error: AccelError | None = None
        self._thread = threading.Thread(target=self._run, name="notebook_accel save", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._save.run(self._agreement)
        except AccelError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - it must reach the training thread, whatever it is
            what = f"{self._save.where.target} was not saved: {type(error).__name__}: {error}"
            self._error = CheckpointError(what, "look for a rank that has ended; the checkpoints before are whole")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Wait for its end.

        Raises:
            CheckpointError: it failed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
