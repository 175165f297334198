"""The seam between the training code and the way ranks communicate.

Shapes: ``W`` is the number of ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from notebook_accel.errors import ConfigError
from notebook_accel.world import World

ReduceOp = Literal["sum", "mean", "max"]
REDUCE_OPS: tuple[ReduceOp, ...] = ("sum", "mean", "max")


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """How a model is wrapped so that its gradients are averaged.

    Attributes:
        options: arguments of the wrapper's constructor.
        finish: called with the wrapped model.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[nn.Module], None] | None = None


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How the ranks are joined.

    Attributes:
        engine: what carries the messages; None takes the one for the device.
        timeout: how long a rank waits for the others in a collective; None takes torch's default.
    """

    engine: str | None = None
    timeout: timedelta | None = None


PLAIN = Wrapping()
ANY_GROUP = GroupOptions()
_NOTHING = nullcontext()


class Backend(ABC):
    """One process's connection to all ranks of the run.

    Args:
        world: this process's place in the run.

    Attributes:
        name: what it is called.
        world: this process's place in the run.
        device: what this rank computes on.
        message_device: where tensors lie when they are sent.
        refused_precisions: why a precision is not possible here, by its name.

    Raises:
        ConfigError: the run wants a device that this machine does not have.
    """

    name: str
    refused_precisions: Mapping[str, str] = MappingProxyType({})

    def __init__(self, world: World) -> None:
        self.world = world
        self.device = device_of(world)
        self.message_device = torch.device("cpu")

    @property
    def messages_in_host_memory(self) -> bool:
        """Whether what was sent can be looked at without waiting for a device."""
        return self.message_device.type == "cpu"

    @abstractmethod
    def setup(self, options: GroupOptions = ANY_GROUP) -> None:
        """Connect to the other ranks. Collective: all ranks must call this."""

    @abstractmethod
    def teardown(self) -> None:
        """Let go of what ``setup`` made; safe to call twice."""

    @property
    def store(self) -> dist.Store | None:
        """Where ranks leave word for each other without waiting, None where there is no such place."""
        return None

    @property
    def steps_run(self) -> int | None:
        """Number of traced steps that were run; None where every operation runs at once."""
        return None

    @abstractmethod
    def break_up(self) -> None:
        """Let ranks that wait for this one in a collective fail; until ``rejoin`` no collective works."""

    @abstractmethod
    def rejoin(self) -> None:
        """Connect to the other ranks anew. Collective: all ranks must call this."""

    def move_model(self, model: nn.Module) -> nn.Module:
        """Bring ``model`` to the device, in place."""
        return model.to(self.device)

    def attach(self, optimizer: Optimizer) -> None:
        """Let ``optimizer`` do what this backend needs: called once for each optimizer, with its model prepared."""
        del optimizer

    def feed(self, batches: Iterable[Any], move: Callable[[Any], Any]) -> Generator[Any, None, None]:
        """Give ``batches`` on the device.

        Args:
            batches: nested structures of tensors.
            move: brings one to the device.
        """
        for batch in batches:
            yield move(batch)

    def rng_state(self) -> dict[str, Any]:
        """Give the state of the device's generators that torch itself knows nothing of, as plain values."""
        return {}

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Restore a state that ``rng_state`` gave."""
        del state

    def host_copy(self, tensor: Tensor) -> Tensor:
        """Give ``tensor`` in a form that any machine can read from a file: on the CPU where it must be."""
        return tensor

    @abstractmethod
    def wrap_model(self, model: nn.Module, wrapping: Wrapping = PLAIN) -> nn.Module:
        """Give a model whose gradients are averaged over the ranks. Collective: all ranks must call this."""

    @abstractmethod
    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """Give the model that ``wrap_model`` was called with; any other model comes back unchanged."""

    def no_sync(self, models: Sequence[nn.Module]) -> AbstractContextManager[Any]:
        """Give a block in which the backward passes of wrapped models keep their gradients on this rank."""
        del models
        return _NOTHING

    def sync_backward(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Give a block whose backward pass exchanges gradients, though the forward pass was in a ``no_sync`` block."""
        del model
        return _NOTHING

    @abstractmethod
    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """Combine the ranks' tensors elementwise into a new tensor. Collective: all ranks must call this.

        The mean of an integer tensor is a floating-point tensor.

        Raises:
            ConfigError: ``op`` is unknown.
        """

    @abstractmethod
    def all_gather(self, tensor: Tensor) -> Tensor:
        """Give every rank's tensor, by rank. Collective: all ranks must call this.

        Shapes: ``(...)`` on every rank, the same everywhere -> ``(W, ...)``, detached.
        """

    @abstractmethod
    def all_gather_bytes(self, received: Tensor, message: Tensor) -> None:
        """Write every rank's message into ``received``, by rank. Collective: all ranks must call this.

        Shapes: ``(W * n,)`` and ``(n,)`` bytes in host memory, ``n`` the same on all ranks.
        """

    @abstractmethod
    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Give rank ``src``'s tensor as a new one, on the device of this rank's. Collective: all ranks must call this.

        Shapes: the same on every rank.
        """

    @abstractmethod
    def gather_object(self, obj: Any) -> list[Any]:
        """Give every rank's picklable object, by rank, on every rank. Collective: all ranks must call this."""

    @abstractmethod
    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Give rank ``src``'s picklable object. Collective: all ranks must call this."""

    def scatter_object(self, objects: Sequence[Any] | None) -> Any:
        """Give this rank's of rank 0's picklable objects, one for each rank. Collective: all ranks must call this.

        Args:
            objects: by rank; None on all ranks but 0.
        """
        every = self.broadcast_object(objects)
        return every[self.world.rank]

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every rank is here. Collective: all ranks must call this."""


def device_of(world: World) -> torch.device:
    """Give the device that this rank computes on.

    Raises:
        ConfigError: there is no such device.

    Example:
        >>> device_of(World())
        device(type='cpu')
    """
    if world.device_kind != "cuda":
        return torch.device(world.device_kind)
    if world.local_rank >= torch.cuda.device_count():
        what = f"rank {world.rank} needs cuda:{world.local_rank}, but {torch.cuda.device_count()} CUDA devices are here"
        raise ConfigError(what, "start at most one process per GPU, or compute on the CPU: ACCELERATE_USE_CPU=true")
    return torch.device("cuda", world.local_rank)


def check_op(op: str) -> None:
    """Refuse an unknown reduction.

    Raises:
        ConfigError: ``op`` is not one of ``REDUCE_OPS``.
    """
    if op not in REDUCE_OPS:
        raise ConfigError(f"unknown reduction {op!r}", f"use one of {', '.join(map(repr, REDUCE_OPS))}")
