"""Copies of a state in host memory, so that training may go on while they are written."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from notebook_accel.core.checkpoints.contents import Part
from notebook_accel.core.tree import leaves, map_tree


class Snapshots:
    """Memory that is kept from one copy to the next: fresh memory takes twice as long to fill."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def take(self, parts: list[Part]) -> list[Part]:
        """Give the same parts with copies of what they hold; those of the last call are overwritten.

        Args:
            parts: what this rank writes.
        """
        found: dict[tuple[str, str], Tensor] = {}
        taken = [replace(part, data=self._copy(part, found)) for part in parts]
        self._kept = found
        if any(tensor.is_pinned() for tensor in found.values()):
            torch.cuda.synchronize()  # copies to pinned memory do not wait by themselves
        return taken

    def _copy(self, part: Part, found: dict[tuple[str, str], Tensor]) -> Any:
        paths = iter([path for path, _ in leaves(part.data)])

        def copied(leaf: Any) -> Any:
            key = (part.name, next(paths))
            if not isinstance(leaf, Tensor):
                return copy.deepcopy(leaf)
            known = self._kept.get(key)
            if known is None or known.shape != leaf.shape or known.dtype != leaf.dtype:
                known = torch.empty(leaf.shape, dtype=leaf.dtype, pin_memory=leaf.is_cuda)
            found[key] = known
            return known.copy_(leaf.detach(), non_blocking=leaf.is_cuda)

        return map_tree(copied, part.data)
