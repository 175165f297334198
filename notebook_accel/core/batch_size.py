"""Finding a batch size that fits into memory: one answer on all ranks."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.memory import clear_device_cache, is_out_of_memory
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError

_FITS, _TOO_LARGE = "fits", "too large"
_LOST = ("connection", "broken pipe", "reset by peer", "nccl")  # what a collective says when another rank has left it
_POLL_SECONDS = 0.05
_GRACE_SECONDS = 10.0
_LONGEST = timedelta(days=30)


def find_executable_batch_size(
    function: Callable[..., Any] | None = None,
    starting_batch_size: int = 128,
    reduce_batch_size_fn: Callable[[], int] | None = None,
) -> Any:
    """Decorate a function to be called again with a smaller batch size while memory runs out on any rank.

    All ranks go on with the same size. A rank that runs out of memory leaves the ranks' group, so that those which wait
    for it in a collective fail; they find the reason, and the group is formed anew. So build models, loaders and
    everything else that the size matters for inside the function, and ``accelerator.free_memory()`` first.

    Collective: all ranks must call the decorated function.

    Args:
        function: takes the batch size as its first argument; left out where this is written with parentheses.
        starting_batch_size: the size tried first, 1 or more.
        reduce_batch_size_fn: gives the next size; nine tenths of the last where left out.

    Raises:
        ConfigError: the function takes no batch size, or was given one, or no size of 1 or more is left.

    Example:
        >>> @find_executable_batch_size(starting_batch_size=16)
        ... def train(batch_size):
        ...     if batch_size > 13:
        ...         raise MemoryError
        ...     return batch_size
        >>> train()
        12
    """
    if function is None:
        return functools.partial(
            find_executable_batch_size,
            starting_batch_size=starting_batch_size,
            reduce_batch_size_fn=reduce_batch_size_fn,
        )
    _check(function, starting_batch_size)

    @functools.wraps(function)
    def search(*args: Any, **kwargs: Any) -> Any:
        size, last = starting_batch_size, None
        backend = current().backend
        while size > 0:
            clear_device_cache(garbage_collection=True)
            fits, value, error = _tried(function, size, args, kwargs, backend)
            if fits:
                return value
            size, last = int(size * 0.9) if reduce_batch_size_fn is None else reduce_batch_size_fn(), size
            del value, error  # its frames hold the tensors that did not fit
        what = f"rank {backend.world.rank}: no batch size is small enough for {function.__name__}: {last} was not"
        raise ConfigError(what, "use a smaller model, a device with more memory, or a lower precision")

    return search


def _check(function: Callable[..., Any], starting_batch_size: int) -> None:
    parameters = list(inspect.signature(function).parameters)
    if not parameters:
        what = f"{function.__name__}() takes no batch size"
        raise ConfigError(what, f"write def {function.__name__}(batch_size, ...), and call it without the batch size")
    if starting_batch_size < 1:
        raise ConfigError(f"starting_batch_size is {starting_batch_size!r}", "use a whole number of 1 or more")


def _tried(
    function: Callable[..., Any], size: int, args: tuple[Any, ...], kwargs: dict[str, Any], backend: Backend
) -> tuple[bool, Any, BaseException | None]:
    """Call the function, and give whether memory sufficed on all ranks, what it returned here, and what it raised."""
    agreement = _Agreement(backend)
    try:
        value = function(size, *args, **kwargs)
    except Exception as error:
        if not (is_out_of_memory(error) or agreement.is_others_failure(error)):
            raise
        agreement.say(_TOO_LARGE)
        error.__traceback__ = None  # its frames hold the tensors that did not fit
        agreement.reached()
        return False, None, error
    agreement.say(_FITS)
    return agreement.reached(), value, None


class _Agreement:
    """What the ranks tell each other about one try, by the store that they met at: nobody waits in a collective."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._store = backend.store
        self._mine = _FITS
        self._keys: list[str] = []
        if self._store is not None:
            number = self._store.add(f"notebook_accel/tries/{backend.world.rank}", 1)
            self._keys = [f"notebook_accel/try/{number}/{rank}" for rank in range(backend.world.world_size)]

    def say(self, how: str) -> None:
        """Leave word for the others; a rank that ran out of memory leaves the group, too."""
        self._mine = how
        if self._store is not None:
            self._store.set(self._keys[self._backend.world.rank], how)
        if how == _TOO_LARGE:
            self._backend.break_up()

    def is_others_failure(self, error: Exception) -> bool:
        """Whether some rank has run out of memory, which made this one fail in its collective."""
        lost = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _LOST)
        if self._store is None or not lost:
            return False
        until = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < until:
            if any(self._store.check([key]) and self._store.get(key).decode() == _TOO_LARGE for key in self._keys):
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def reached(self) -> bool:
        """Wait for all ranks, and give whether it fits on all; otherwise the ranks' group is formed anew."""
        if self._store is None:  # alone, or in a group of the user's own, where all come here or none
            too_large = torch.tensor(int(self._mine != _FITS))
            return not bool(self._backend.all_reduce(too_large, "max"))
        self._store.wait(self._keys, _LONGEST)
        fits = all(self._store.get(key).decode() == _FITS for key in self._keys)
        if not fits:
            self._backend.rejoin()
        return fits
