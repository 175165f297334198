"""Bringing batches to the rank's device."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.core.tree import leaves, move


def transferred(
    batches: Iterator[Any], backend: Backend, device: torch.device | None, *, non_blocking: bool
) -> Iterator[Any]:
    """Give the batches on a device; on a GPU the next one is copied while the one in hand is used.

    Args:
        batches: of this rank.
        backend: knows how its device is fed.
        device: where to; None leaves them where they are.
        non_blocking: do not wait for copies from pinned memory.
    """
    if device is None or device.type == "cpu":  # where loaders make them
        return batches
    if device.type == "cuda":
        return _beside(batches, device, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # torch's own
    return backend.feed(batches, functools.partial(move, device=device, non_blocking=non_blocking))


def _beside(batches: Iterable[Any], device: torch.device, stream: torch.cuda.Stream) -> Generator[Any, None, None]:
    """Copy each batch on a stream of its own, one ahead of the loop.

    Memory that is not pinned is copied just as well, only that the host waits for it.
    """
    waiting: tuple[Any, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = move(batch, device, non_blocking=True)
            done = stream.record_event()
        if waiting is not None:
            yield _ready(*waiting)
        waiting = copied, done
    if waiting is not None:
        yield _ready(*waiting)


def _ready(batch: Any, done: torch.cuda.Event) -> Any:
    """Let the loop's stream wait for the copy, and keep the memory until the loop's work on it is done."""
    current = torch.cuda.current_stream()
    current.wait_event(done)
    for _, leaf in leaves(batch):
        if isinstance(leaf, Tensor) and leaf.is_cuda:
            leaf.record_stream(current)
    return batch
