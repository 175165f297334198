"""A BRIDGE for tests between processes that each run the real torch_xla: its CPU runtime makes each a world of one.

What XLA does between chips is done here on the CPU, through the run's store: a tensor is read from the device, which
runs what was traced for it, combined with the other ranks' in the order of the ranks, and written back. Everything else
is torch_xla's own. How XLA reduces between chips is not shown.
"""

from __future__ import annotations

import importlib
import pickle
from collections import Counter
from typing import Any

import torch
from torch.distributed import PrefixStore, TCPStore

from notebook_accel.backends.host_exchange import HostExchange
from notebook_accel.world import World


class Bridge:
    """One process's end, with what ``torch_xla.core.xla_model`` has for all replicas.

    Attributes:
        calls: how often each operation was called.
    """

    def __init__(self, world: World) -> None:
        store = TCPStore(world.master_addr, world.master_port, None, is_master=False, wait_for_workers=False)
        self._exchange = HostExchange(world, PrefixStore("test_bridge", store))
        self.calls: Counter[str] = Counter()

    @classmethod
    def build(cls, world: World) -> Bridge:
        """Make this process one of the ranks of ``world`` in torch_xla's eyes, for the rest of its life."""
        bridge = cls(world)
        operations = importlib.import_module("torch_xla.core.xla_model")
        for name in ("all_reduce", "all_gather", "collective_broadcast"):
            setattr(operations, name, getattr(bridge, name))
        runtime: Any = importlib.import_module("torch_xla.runtime")
        runtime.global_ordinal = lambda: world.rank
        runtime.world_size = lambda: world.world_size
        return bridge

    def all_reduce(self, kind: str, inputs: Any, scale: float = 1.0) -> Any:
        """In place for a list, a new tensor for a tensor, as torch_xla's own."""
        self.calls["all_reduce"] += 1
        if isinstance(inputs, torch.Tensor):
            return self._reduced(kind, inputs, scale)
        for tensor in inputs:
            tensor.copy_(self._reduced(kind, tensor, scale))
        return inputs

    def all_gather(self, value: torch.Tensor, dim: int = 0) -> torch.Tensor:
        self.calls["all_gather"] += 1
        return torch.cat(self._of_all(value), dim).to(value.device)

    def collective_broadcast(self, tensors: list[torch.Tensor], root_ordinal: int = 0) -> None:
        self.calls["collective_broadcast"] += 1
        with torch.no_grad():
            for tensor in tensors:
                tensor.copy_(self._of_all(tensor)[root_ordinal])

    def _reduced(self, kind: str, tensor: torch.Tensor, scale: float) -> torch.Tensor:
        every = torch.stack(self._of_all(tensor))
        combined = {"sum": lambda: every.sum(0, dtype=every.dtype), "max": lambda: every.amax(0)}[kind]()
        return (combined if scale == 1.0 else combined * scale).to(tensor.device)

    def _of_all(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        assert tensor.device.type == "xla"
        return [pickle.loads(said) for said in self._exchange.gather(pickle.dumps(tensor.detach().cpu()))]
