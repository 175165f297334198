"""How far a rank has come, for those who wonder whether it hangs while it is found at the same line again and again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class Progress:
    """Counts what the process begins: collectives, and steps of optimizers."""

    def __init__(self) -> None:
        self._steps = 0

    def actions(self) -> dict[str, Callable[[ModuleType], None]]:
        """Give what to do with modules when they have been imported."""
        return {"torch.optim.optimizer": self._count_steps}

    def _count_steps(self, module: ModuleType) -> None:
        module.register_optimizer_step_post_hook(self._note_step)

    def _note_step(self, *_: object) -> None:
        self._steps += 1

    def count(self) -> int:
        """Give a number that grows as long as the function gets on; from any thread, whatever the main one does."""
        return self._steps + _collectives()


def _collectives() -> int:
    """Give how many collectives, sends and receives the process's groups have begun."""
    module: Any = sys.modules.get("torch.distributed.distributed_c10d")
    if module is None:
        return 0
    begun = 0
    for group in tuple(module._world.pg_map):  # noqa: SLF001 - the only list of all groups
        try:
            begun += group._get_sequence_number_for_group()  # noqa: SLF001 - nothing else says it
        except (AttributeError, RuntimeError):
            continue  # a kind of group that does not count
    return begun
