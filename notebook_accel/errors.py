"""Every error this package raises on purpose, in one tree.

AccelError                  base; always carries a hint: what to do next
+-- ConfigError             an argument is wrong; nothing was started   (also a ValueError)
|   +-- NotAvailableError   the argument is understood but not possible here or not built yet
|   |   +-- AttributeNotBuilt   a name of Accelerate's that is not built yet   (also an AttributeError)
|   |   +-- ImportNotBuilt      the same of an import                          (also an ImportError)
|   +-- NoLengthError       the number of a loader's batches is asked for, and cannot be known   (also a TypeError)
+-- NotInWorkerError        an Accelerator was built where no rank is running
+-- PayloadError            the function or its arguments cannot travel to the ranks
+-- CheckpointError         a checkpoint could not be written, or is not to be trusted
|   +-- CheckpointNotFound  there is no complete checkpoint where one is looked for
+-- WorkerDied              a worker of a DataLoader was killed or crashed
+-- LaunchError             the machinery failed, not the user's function
+-- RankFailed              the user's function failed, or a rank was killed
+-- RunInterrupted          the run was stopped before its function had returned everywhere
+-- RunTimedOut             the run had its time and was stopped     (also a TimeoutError)
|   +-- RunHung             no rank moved for hang_timeout_seconds, and the run was stopped
+-- ResultUnavailable       a rank finished but its value could not be brought back
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from notebook_accel.wire.outcome import Failure


def _rebuild(cls: Callable[..., AccelError], args: tuple[Any, ...], state: dict[str, Any]) -> AccelError:
    error = cls(*args)
    error.__dict__.update(state)
    return error


def _tracebacks() -> ModuleType:
    from notebook_accel import tracebacks  # noqa: PLC0415 - only a notebook that shows an error needs it

    return tracebacks


def _shown(error: BaseException, show: Callable[[], list[str]]) -> list[str]:
    """Show an error; whatever is wrong with showing it must not hide what it says."""
    try:
        return list(show())
    except Exception:  # noqa: BLE001 - sources, front ends and user classes may be anything
        return f"{type(error).__name__}: {error}".splitlines()


class AccelError(Exception):
    r"""Base of all errors of this package.

    Args:
        what: what happened and where.
        hint: what to do next; shown on its own line.

    Example:
        >>> str(AccelError("the kettle is empty", "fill it"))
        'the kettle is empty\n  -> fill it'
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        """Give the message and, on a line of its own, the hint."""
        return f"{self.what}\n  -> {self.hint}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel between processes whatever the subclass's signature is."""
        return _rebuild, (type(self), self.args, self.__dict__)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the user's own frames that led here and the message, without the launcher's frames."""
        return _shown(self, lambda: _tracebacks().show_error(self))


class ConfigError(AccelError, ValueError):
    """An argument is wrong; no process was started."""


class NotAvailableError(ConfigError):
    """The argument is understood, but cannot be honoured here or is not built yet."""


class AttributeNotBuilt(NotAvailableError, AttributeError):  # noqa: N818 - read as a state: "not built"
    """An attribute that Hugging Face Accelerate has, for something that is not built here."""


class ImportNotBuilt(NotAvailableError, ImportError):  # noqa: N818 - as above
    """A name that can be imported from Hugging Face Accelerate, for something that is not built here."""


class NoLengthError(ConfigError, TypeError):
    """The number of a loader's batches is asked for, and its data has no length."""


class NotInWorkerError(AccelError, RuntimeError):
    """An ``Accelerator`` was built in a notebook kernel, where no rank is running."""

    def __init__(self, what: str = "Accelerator() was called in the notebook kernel, where no rank is running") -> None:
        hint = (
            "build it inside the function that you launch:  "
            "def train(): accelerator = Accelerator(); ...   then   notebook_launcher(train)"
        )
        Exception.__init__(self, what)
        self.what, self.hint = what, hint


class PayloadError(AccelError, TypeError):
    """The function or its arguments cannot be sent to the ranks."""


class CheckpointError(AccelError, RuntimeError):
    """A checkpoint could not be written, is damaged, or is of something else than what is loaded into."""


class CheckpointNotFound(CheckpointError, FileNotFoundError):  # noqa: N818 - read as a state: "checkpoint not found"
    """There is no complete checkpoint where one is looked for."""


class WorkerDied(AccelError, RuntimeError):  # noqa: N818 - read as what happened
    """A worker of a ``DataLoader`` was killed or crashed."""


class LaunchError(AccelError, RuntimeError):
    """A process of the launcher itself failed."""


class ResultUnavailable(AccelError, RuntimeError):  # noqa: N818 - read as a state: "result unavailable"
    """A rank returned, but its value could not be brought back."""


class RunInterrupted(AccelError, RuntimeError):  # noqa: N818 - read as a state: "run interrupted"
    """A run was stopped before its function had returned on every rank.

    Attributes:
        places: where each rank was when the run was interrupted, in words, by rank; empty where nobody could say.
        result: the ``RunResult`` with what the ranks had returned and printed by then.
    """

    def __init__(self, what: str, hint: str, places: dict[int, str] | None = None) -> None:
        super().__init__(what, hint)
        self.places = dict(places or {})
        self.args = (what, hint, self.places)
        self.result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the run's result behind: it holds files of this process."""
        return type(self), self.args

    def __str__(self) -> str:
        """Give the message, where each rank was, and the hint."""
        return "\n".join([self.what, *place_lines(self.places), f"  -> {self.hint}"])


class RunTimedOut(AccelError, TimeoutError):  # noqa: N818 - read as a state: "run timed out"
    """A run had taken its ``timeout_seconds`` and was stopped.

    Attributes:
        places: where each rank was at that moment that had not ended, in words, by rank.
        result: the ``RunResult`` with what the ranks had returned and printed by then.
    """

    def __init__(self, what: str, hint: str, places: dict[int, str]) -> None:
        super().__init__(what, hint)
        self.args = (what, hint, places)
        self.places = places
        self.result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the run's result behind: it holds files of this process."""
        return type(self), self.args

    def __str__(self) -> str:
        """Give the message, where each rank was, and the hint."""
        return "\n".join([self.what, *place_lines(self.places), f"  -> {self.hint}"])


class RunHung(RunTimedOut):
    """No rank of a run had moved for its ``hang_timeout_seconds``, and it was to be stopped then.

    Attributes:
        places: what each rank did that had not ended, in words, by rank.
        result: the ``RunResult`` with what the ranks had returned and printed by then.
    """


def place_lines(places: dict[int, str]) -> list[str]:
    """Say in a line for each rank where it was."""
    return [f"  rank {rank}: {place}" for rank, place in sorted(places.items())]


class RankFailed(AccelError, RuntimeError):  # noqa: N818 - the name people see above a traceback
    """The launched function failed on a rank, or a rank was killed.

    Attributes:
        rank: the rank that failed first.
        failures: one ``Failure`` per failed rank, the first in time first.
        exception: the original exception object, the same each time. None where it cannot be pickled, or not loaded
            here; its text is in ``failures[0].traceback`` in any case.
        result: the ``RunResult`` with the other ranks' values and every rank's output.
    """

    def __init__(self, failures: tuple[Failure, ...], world_size: int) -> None:
        first = failures[0]
        Exception.__init__(self, failures, world_size)
        self.failures = failures
        self.world_size = world_size
        self.rank = first.rank
        self.what = f"rank {first.rank} of {world_size} failed{' first' if world_size > 1 else ''}: {first.headline}"
        self.hint = first.hint
        self.result: Any = None
        self._exception: BaseException | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the run's result behind: it holds files of this process."""
        return type(self), (self.failures, self.world_size)

    @property
    def exception(self) -> BaseException | None:
        """The exception that the rank raised, or None where it could not be brought back; see ``failures`` then."""
        if self._exception is None:
            self._exception = self.failures[0].load_exception()
        return self._exception

    def __str__(self) -> str:
        """Give the headline, the first rank's traceback, the other ranks in a line each, and the hint."""
        parts = [self.what]
        if self.failures[0].traceback:
            parts.append(self.failures[0].traceback.rstrip())
        parts += [f"rank {other.rank} afterwards: {other.headline}" for other in self.failures[1:]]
        if not parts[-1].endswith(f"  -> {self.hint}"):  # an error of this package has said it
            parts.append(f"  -> {self.hint}")
        return "\n".join(parts)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the rank's own traceback in few lines, instead of the launcher's frames."""
        return _shown(self, lambda: _tracebacks().show_failures(self))
