"""Logging that knows about ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from notebook_accel import environment
from notebook_accel.core.runtime import active
from notebook_accel.world import World

_OWN = {"main_process_only": True, "in_order": False}


class RankLogger(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic from Python 3.11 on
    """A logger whose calls take ``main_process_only`` (True where left out) and ``in_order``.

    It may be made and used anywhere, also before there is an ``Accelerator``, and in the notebook's kernel.
    """

    def __init__(self, logger: logging.Logger, extra: Mapping[str, Any]) -> None:
        super().__init__(logger, dict(extra))
        self._said: set[tuple[Any, ...]] = set()

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Log on rank 0, or on all ranks.

        Args:
            level: of the message.
            msg: the message.
            args: of the message.
            kwargs: ``main_process_only=False`` logs on every rank; ``in_order=True`` lets the ranks log one after the
                other, and must then be called on all of them; the others as the standard logger takes them.
        """
        own = {name: kwargs.pop(name, default) for name, default in _OWN.items()}
        kwargs.setdefault("stacklevel", 2)
        if not self.isEnabledFor(level):
            return
        runtime = active()
        world = runtime.world if runtime is not None else environment.world_from_environment() or World()
        if own["in_order"] and not own["main_process_only"] and runtime is not None:
            for rank in range(world.world_size):
                if rank == world.rank:
                    self._write(level, msg, args, kwargs)
                runtime.backend.barrier()
        elif not own["main_process_only"] or world.is_main:
            self._write(level, msg, args, kwargs)

    def _write(self, level: int, msg: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        text, options = self.process(msg, {**kwargs, "stacklevel": kwargs["stacklevel"] + 1})
        self.logger.log(level, text, *args, **options)

    def warning_once(self, *args: Any, **kwargs: Any) -> None:
        """Warn as ``warning`` does, of each message only once.

        Args:
            args: the message and its arguments.
            kwargs: as for ``log``.
        """
        if args not in self._said:
            self._said.add(args)
            self.warning(*args, **{"stacklevel": 3, **kwargs})


def get_logger(name: str, log_level: str | None = None) -> RankLogger:
    """Give a logger that logs on rank 0 unless it is told otherwise.

    Args:
        name: such as ``__name__``.
        log_level: such as "INFO"; the level of ACCELERATE_LOG_LEVEL where left out, else the logger stays as it is.

    Example:
        >>> get_logger("training").warning("on rank 0 only")
        >>> get_logger("training").info("on all", main_process_only=False)
    """
    level = environment.log_level() if log_level is None else log_level
    logger = logging.getLogger(name)
    if level is not None:
        logger.setLevel(level.upper())
        logger.root.setLevel(level.upper())
    return RankLogger(logger, {})
