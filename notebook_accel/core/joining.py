"""Training on ranks that do not all get the same number of batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.distributed.algorithms.join import Join, Joinable

from notebook_accel.backends.compiled import uncompiled
from notebook_accel.core.kit import Kit


@contextmanager
def joined(joinables: Sequence[Any], kit: Kit, *, even_batches: bool | None) -> Iterator[None]:
    """Let ranks that have run out of batches take part in the others' collectives until all are done.

    Args:
        joinables: prepared models.
        kit: what they were made ready with.
        even_batches: whether ranks get the same number of batches in the block; None leaves loaders as they are.
    """
    changed = kit.prepared.loaders if even_batches is not None and kit.backend.world.world_size > 1 else []
    before = [(loader, loader.with_even_batches(bool(even_batches))) for loader in changed]
    wrapped: list[Joinable] = [inner for inner in map(uncompiled, joinables) if isinstance(inner, Joinable)]
    try:
        if not wrapped:
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*uneven inputs", category=UserWarning)
            with Join(wrapped, enable=True, throw_on_early_termination=False):
                yield
    finally:
        for loader, even in before:
            loader.with_even_batches(even)
