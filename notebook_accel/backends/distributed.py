"""The backend on ``torch.distributed``: gloo between CPU ranks, NCCL between GPUs.

Shapes: ``W`` is the number of ranks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from notebook_accel.backends.base import ANY_GROUP, PLAIN, Backend, GroupOptions, ReduceOp, Wrapping, check_op
from notebook_accel.backends.compiled import uncompiled
from notebook_accel.backends.connections import end_connections, sockets
from notebook_accel.errors import ConfigError
from notebook_accel.world import World

_PLAIN_TYPES = frozenset((torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8))  # of every engine
# The same function under its newer name, where torch has it.
_all_gather_single = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What carries the messages of a process group.

    Attributes:
        name: what ``torch.distributed`` calls it.
        device_bound: True when messages must lie on the rank's own device, False when they travel from CPU memory.
    """

    name: str
    device_bound: bool


class DistributedBackend(Backend):
    """All ranks of the run, joined by the default process group.

    A default group that the user made before is used as it is and never destroyed.

    Args:
        world: this process's place in the run.
        engine: what carries the messages.
    """

    def __init__(self, world: World, engine: Engine) -> None:
        super().__init__(world)
        self.name = engine.name
        self._engine = engine
        self.message_device = self.device if engine.device_bound else torch.device("cpu")
        number = cast("int | None", self.device.index)  # None on a CPU, whatever torch's stubs say
        self._device_ids = None if number is None else [number]
        self._owns_group = False
        self._options = ANY_GROUP
        self._store: dist.Store | None = None
        self._connections: set[int] = set()

    def setup(self, options: GroupOptions = ANY_GROUP) -> None:
        """Join the default group, made from the environment (``env://``) unless it is there already.

        Collective: all ranks must call this.

        Args:
            options: how the ranks are joined; a group that is there already keeps its own timeout.

        Raises:
            ConfigError: the existing group does not have this run's ranks.
        """
        if self._device_ids is not None:
            torch.cuda.set_device(self.device)
        self._options = options
        if not dist.is_initialized():
            self._join()
        found = dist.get_rank(), dist.get_world_size()
        if found != (self.world.rank, self.world.world_size):
            what = (
                f"rank {self.world.rank} of {self.world.world_size} is rank {found[0]} of {found[1]} "
                "in the process group that was made before"
            )
            raise ConfigError(what, "call init_process_group() without rank and world_size, or leave it to Accelerator")
        _keep_for_ever(dist.group.WORLD)

    def _join(self) -> None:
        self._store = _store_of_its_own(self.world)
        strangers = {identity for _, identity in sockets()}
        dist.init_process_group(
            self._engine.name,
            store=self._store,
            rank=self.world.rank,
            world_size=self.world.world_size,
            timeout=self._options.timeout,
            device_id=self.device if self._engine.device_bound else None,
        )
        self._owns_group = True
        self._connections = {identity for _, identity in sockets()} - strangers

    @property
    def store(self) -> dist.Store | None:
        """Where ranks leave word for each other without waiting; None in a group that the user made."""
        return self._store

    def break_up(self) -> None:
        """Let ranks that wait for this one in a collective fail; until ``rejoin`` no collective works."""
        if self._owns_group:
            end_connections([fd for fd, identity in sockets() if identity in self._connections], only_local=False)
            self._connections = set()

    def rejoin(self) -> None:
        """Form the group anew, if ``setup`` made it. Collective: all ranks must call this."""
        if self._owns_group:
            self.break_up()
            dist.destroy_process_group()
            self._join()
            _keep_for_ever(dist.group.WORLD)

    def teardown(self) -> None:
        """Destroy the group if ``setup`` made it."""
        if self._owns_group and dist.is_initialized():
            dist.destroy_process_group()
        self._owns_group, self._store = False, None

    def wrap_model(self, model: nn.Module, wrapping: Wrapping = PLAIN) -> nn.Module:
        """Wrap in ``DistributedDataParallel``, unless it is so already or has nothing to train.

        Collective: all ranks must call this.
        """
        if isinstance(model, DistributedDataParallel) or not any(p.requires_grad for p in model.parameters()):
            return model
        on_one_device = {p.device for p in model.parameters()} == {self.device}
        wrapped = DistributedDataParallel(
            model, device_ids=self._device_ids if on_one_device else None, **wrapping.options
        )
        if wrapping.finish is not None:
            wrapping.finish(wrapped)
        return wrapped

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """Take the ``DistributedDataParallel`` wrapper off."""
        return cast("nn.Module", model.module) if isinstance(model, DistributedDataParallel) else model

    def no_sync(self, models: Sequence[nn.Module]) -> AbstractContextManager[Any]:
        """Give a block in which the models' gradients stay local; nothing for those that are not wrapped."""
        wrapped = [inner for inner in map(uncompiled, models) if isinstance(inner, DistributedDataParallel)]
        if len(wrapped) == 1:
            return wrapped[0].no_sync()
        stack = ExitStack()
        for model in wrapped:
            stack.enter_context(model.no_sync())
        return stack

    @contextmanager
    def sync_backward(self, model: nn.Module) -> Iterator[None]:
        """Give a block whose backward pass exchanges ``model``'s gradients; nothing for a model that is not wrapped."""
        model = uncompiled(model)
        if not isinstance(model, DistributedDataParallel):
            yield
            return
        before = model.require_backward_grad_sync, model.require_forward_param_sync
        model.require_backward_grad_sync = model.require_forward_param_sync = True
        # The forward pass left this out. Its outputs are not known any more, so every parameter is waited for.
        model.reducer.prepare_for_backward([])
        try:
            yield
        finally:
            model.require_backward_grad_sync, model.require_forward_param_sync = before

    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """Combine the ranks' tensors elementwise into a new tensor. Collective: all ranks must call this.

        Raises:
            ConfigError: ``op`` is unknown.
        """
        check_op(op)
        message = tensor.detach().to(self.message_device, copy=True).contiguous()
        dist.all_reduce(message, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
        combined = message / self.world.world_size if op == "mean" else message
        return combined.to(tensor.device)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Give every rank's tensor, by rank. Collective: all ranks must call this.

        Shapes: ``(...)`` on every rank, the same everywhere -> ``(W, ...)``, detached.
        """
        shape = (self.world.world_size, *tensor.shape)
        if tensor.ndim and tensor.dtype in _PLAIN_TYPES and self._travels_as_it_is(tensor):
            joined = torch.empty((shape[0] * shape[1], *shape[2:]), dtype=tensor.dtype, device=tensor.device)
            _all_gather_single(joined, tensor.detach())
            return joined.view(shape)
        message = _flat(tensor.detach().resolve_conj().resolve_neg().to(self.message_device))
        gathered = message.new_empty(self.world.world_size * message.numel())
        if message.numel():
            # Sent as bytes: nothing is computed, so every dtype may travel, also those the engine cannot add.
            _all_gather_single(gathered.view(torch.uint8), message.view(torch.uint8))
        return gathered.view(shape).to(tensor.device)

    def _travels_as_it_is(self, tensor: Tensor) -> bool:
        is_whole = tensor.is_contiguous() and not tensor.is_neg() and tensor.numel() > 0
        return is_whole and tensor.device == self.message_device

    def all_gather_bytes(self, received: Tensor, message: Tensor) -> None:
        """Write every rank's message into ``received``, by rank. Collective: all ranks must call this.

        Shapes: ``(W * n,)`` and ``(n,)`` bytes in host memory, ``n`` the same on all ranks.
        """
        if self.messages_in_host_memory:
            _all_gather_single(received, message)
            return
        gathered = torch.empty_like(received, device=self.message_device)
        _all_gather_single(gathered, message.to(self.message_device))
        received.copy_(gathered)

    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Give rank ``src``'s tensor as a new one, on the device of this rank's. Collective: all ranks must call this.

        Shapes: the same on every rank.
        """
        message = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.message_device).copy_(tensor.detach())
        if message.numel():
            dist.broadcast(message.view(-1).view(torch.uint8), src=src)
        return message.to(tensor.device)

    def gather_object(self, obj: Any) -> list[Any]:
        """Give every rank's picklable object, by rank, on every rank. Collective: all ranks must call this."""
        objects: list[Any] = [None] * self.world.world_size
        dist.all_gather_object(objects, obj)
        return objects

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Give rank ``src``'s picklable object. Collective: all ranks must call this."""
        box = [obj]
        dist.broadcast_object_list(box, src=src)
        return box[0]

    def scatter_object(self, objects: Sequence[Any] | None) -> Any:
        """Give this rank's of rank 0's picklable objects, one for each rank. Collective: all ranks must call this.

        Args:
            objects: by rank; None on all ranks but 0.
        """
        box: list[Any] = [None]
        dist.scatter_object_list(box, None if objects is None else list(objects), src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here. Collective: all ranks must call this."""
        dist.barrier(device_ids=self._device_ids if self._engine.device_bound else None)


def _flat(tensor: Tensor) -> Tensor:
    """Give a tensor's elements in a row, so that it can be looked at as bytes."""
    row = tensor.reshape(-1)
    # A single element may have any stride and be contiguous all the same.
    return row if row.stride() == (1,) else row.clone(memory_format=torch.contiguous_format)


def _store_of_its_own(world: World) -> dist.Store:
    # torch writes the addresses of every default group under the same keys. A rank that joins a second group in the
    # same run could read where the first one listened, and would wait there for ever.
    store, _, _ = next(dist.rendezvous("env://", world.rank, world.world_size))
    number = store.add(f"notebook_accel/joined/{world.rank}", 1)
    return dist.PrefixStore(f"notebook_accel/{number}", store)


def _keep_for_ever(group: object) -> None:
    # The last reference must not go while Python runs or shuts down: the destructor of a gloo group joins its worker
    # thread while it holds the interpreter lock, which that thread may want, and the process would hang.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
