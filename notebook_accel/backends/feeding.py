"""Batches for an XLA device, brought there in the background by torch_xla's own loader."""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import torch

from notebook_accel.backends.recompilation import CompilationWatch

_READ_AHEAD, _ON_DEVICE_AHEAD = 4, 2  # batches


def fed(batches: Iterable[Any], device: torch.device, compilations: CompilationWatch) -> Generator[Any, None, None]:
    """Give ``batches`` on ``device``; what was traced since the last one is run before the next is given.

    Args:
        batches: on the CPU; read in another thread, some batches ahead.
        device: where to.
        compilations: told of each batch's shapes.
    """
    source = _Guarded(batches)
    loaders = importlib.import_module("torch_xla.distributed.parallel_loader")
    loader = loaders.ParallelLoader(
        source, [device], loader_prefetch_size=_READ_AHEAD, device_prefetch_size=_ON_DEVICE_AHEAD
    )
    compilations.begin()
    try:
        for batch in loader.per_device_loader(device):
            compilations.look()
            compilations.see(batch)
            yield batch
        if source.error is not None:  # torch_xla takes it for the end of the data
            raise source.error
        compilations.look()
    finally:
        source.stopped = True
        loader.close()


class _Guarded:
    """Batches whose error is kept, since the thread that reads them would only print it.

    Attributes:
        error: what reading raised.
        stopped: True to end before the end.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.error: BaseException | None = None
        self.stopped = False

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in self._batches:
                if self.stopped:
                    return
                yield batch
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that wants the batch
            self.error = error
