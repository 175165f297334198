"""The backend on ``torch_xla``: one process for each TPU chip, gradients averaged by XLA.

Tensors on the device travel inside the compiled program; objects, counts and tensors on the CPU through the run's
store, which costs no program. Shapes: ``W`` is the number of ranks.
"""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from notebook_accel.backends.base import ANY_GROUP, PLAIN, Backend, GroupOptions, ReduceOp, Wrapping, check_op
from notebook_accel.backends.feeding import fed
from notebook_accel.backends.host_exchange import HostExchange
from notebook_accel.backends.moving import Moves, left_behind, torn
from notebook_accel.backends.recompilation import CompilationWatch
from notebook_accel.errors import ConfigError
from notebook_accel.world import World


class XlaBackend(Backend):
    """All ranks of the run, each with one XLA device.

    Gradients are averaged at the end of a backward pass, as DDP does it, so that clipping sees the average.

    Args:
        world: this process's place in the run.
    """

    name = "xla"
    refused_precisions = MappingProxyType(
        {
            "fp16": "a TPU computes in bfloat16, which needs no gradient scaler",
            "fp8": "no TPU computes in it through torch_xla",
        }
    )

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._torch_xla = importlib.import_module("torch_xla")
        self._model_calls = importlib.import_module("torch_xla.core.xla_model")
        self.device = self._torch_xla.device()
        self.message_device = self.device
        self._exchange = HostExchange(world, None)
        self._moves = Moves()
        self._watched: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        self._to_average: dict[int, Tensor] = {}
        self._averaged_after: int | None = None  # the backward pass at whose end that will be
        self._local_blocks = 0
        self._steps_run = 0
        self._compilations = CompilationWatch(importlib.import_module("torch_xla.debug.metrics"), world.rank)

    def setup(self, options: GroupOptions = ANY_GROUP) -> None:
        """Connect to the store that the launcher serves.

        Args:
            options: how long a rank waits for the others.

        Raises:
            ConfigError: the XLA runtime was started with other ranks than this run has.
        """
        runtime = importlib.import_module("torch_xla.runtime")
        found = runtime.global_ordinal(), runtime.world_size()
        if found != (self.world.rank, self.world.world_size):
            what = f"rank {self.world.rank} of {self.world.world_size} is device {found[0]} of {found[1]} of XLA"
            raise ConfigError(what, "launch with notebook_launcher, which lets the runtime number the ranks")
        self._exchange = HostExchange.of_run(self.world, options.timeout)

    def teardown(self) -> None:
        """Let the pending operations be run."""
        self._torch_xla.sync()

    def break_up(self) -> None:
        """Do nothing: what waits inside of a program on a device cannot be reached; ranks agree outside of it."""

    def rejoin(self) -> None:
        """Do nothing: the ranks have stayed connected."""

    # ---- models and optimizers

    def move_model(self, model: nn.Module) -> nn.Module:
        """Move a model to the device; tied weights stay tied, and optimizers are led to the new parameters.

        Raises:
            ConfigError: tied weights came apart and cannot be tied again.
        """
        return self._moves.move(model, self.device)

    def wrap_model(self, model: nn.Module, wrapping: Wrapping = PLAIN) -> nn.Module:
        """Give ``model`` itself, with rank 0's weights, whose gradients are averaged as a backward pass ends.

        Collective: all ranks must call this.

        Args:
            model: any model.
            wrapping: of no meaning: there is no wrapper.
        """
        del wrapping
        self._speak_of_torn_weights(model)
        trained = [p for p in model.parameters() if p.requires_grad and p not in self._watched]
        if self.world.world_size == 1 or not trained:
            return model
        self._broadcast([*model.parameters(), *model.buffers()])
        self.average(trained)
        return model

    def _speak_of_torn_weights(self, model: nn.Module) -> None:
        apart = torn(model)
        if apart and self.world.is_main:
            what = f"weights that the model's config ties are two on {self.device}: {'; '.join(apart)}"
            hint = (
                "call model.tie_weights() after model.to(...), before the optimizer is built, or let prepare() move it"
            )
            warnings.warn(f"{what}\n  -> {hint}", stacklevel=2)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of ``parameters`` over the ranks from now on, as each backward pass ends."""
        for parameter in parameters:
            self._watched[parameter] = True
            parameter.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]  # torch's own

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """Give ``model`` itself."""
        return model

    def attach(self, optimizer: Optimizer) -> None:
        """Let an optimizer hold the moved parameters, and run the program that was traced after each of its steps.

        Raises:
            ConfigError: it holds parameters that are not on the device.
        """
        self._moves.follow(optimizer)
        behind = left_behind(optimizer, self.device)
        if behind:
            what = (
                f"rank {self.world.rank}: the optimizer holds {len(behind)} parameters that are not on {self.device} "
                f"({', '.join(behind[:3])}{', ...' if len(behind) > 3 else ''}): moving a model to an XLA device makes "  # noqa: PLR2004
                "new parameters, which this optimizer would never update"
            )
            hint = "build it after model.to(accelerator.device), or give model and optimizer to one prepare()"
            raise ConfigError(what, hint)
        optimizer.register_step_post_hook(self._end_step)

    @property
    def steps_run(self) -> int:
        """Number of optimizer steps: what is traced is run at the end of each."""
        return self._steps_run

    def _end_step(self, optimizer: Optimizer, *_: Any) -> None:
        self._torch_xla.sync()
        self._steps_run += 1
        self._compilations.end_step(optimizer)

    # ---- gradients

    def _note_gradient(self, parameter: Tensor) -> None:
        self._to_average[id(parameter)] = parameter
        backward_pass = torch._C._current_graph_task_id()  # noqa: SLF001 - where DDP in Python asks for it, too
        if not self._local_blocks and backward_pass != self._averaged_after:
            self._averaged_after = backward_pass
            torch.autograd.Variable._execution_engine.queue_callback(self.average_gradients)  # noqa: SLF001 - the same

    def average_gradients(self) -> None:
        """Average the gradients that came since the last time. Collective: all ranks must call this."""
        waiting, self._to_average = self._to_average, {}
        gradients = [parameter.grad for parameter in waiting.values() if parameter.grad is not None]
        on_device = [gradient for gradient in gradients if gradient.device == self.device]
        if on_device:
            self._model_calls.all_reduce(self._model_calls.REDUCE_SUM, on_device, scale=1.0 / self.world.world_size)
        for gradient in gradients:
            if gradient.device != self.device:
                gradient.copy_(self.all_reduce(gradient, "mean"))

    @contextmanager
    def _local(self) -> Iterator[None]:
        self._local_blocks += 1
        try:
            yield
        finally:
            self._local_blocks -= 1

    def no_sync(self, models: Sequence[nn.Module]) -> AbstractContextManager[Any]:
        """Give a block in which gradients stay local; they are averaged with those of the next pass outside of it."""
        del models
        return self._local()

    @contextmanager
    def sync_backward(self, model: nn.Module) -> Iterator[None]:
        """Give a block whose backward pass averages gradients, also inside of a ``no_sync`` block."""
        del model
        before, self._local_blocks = self._local_blocks, 0
        try:
            yield
        finally:
            self._local_blocks = before

    # ---- data

    def feed(self, batches: Iterable[Any], move: Callable[[Any], Any]) -> Generator[Any, None, None]:
        """Give batches on the device, brought there ahead of time in the background.

        What was traced since the last batch is run before the next is given.
        """
        del move
        return fed(batches, self.device, self._compilations)

    # ---- collectives

    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """Combine the ranks' tensors elementwise into a new tensor. Collective: all ranks must call this.

        Raises:
            ConfigError: ``op`` is unknown.
        """
        check_op(op)
        mine = tensor.detach()
        if mine.device != self.device:
            return _combined(self._gather_on_host(mine), op)
        calls = self._model_calls
        combined: Tensor = calls.all_reduce(calls.REDUCE_MAX if op == "max" else calls.REDUCE_SUM, mine)
        return combined / self.world.world_size if op == "mean" else combined

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Give every rank's tensor, by rank. Collective: all ranks must call this.

        Shapes: ``(...)`` on every rank, the same everywhere -> ``(W, ...)``, detached.
        """
        mine = tensor.detach().resolve_conj().resolve_neg()
        if mine.device != self.device or not mine.numel():
            return torch.stack(self._gather_on_host(mine)).to(mine.device)
        message = mine.to(torch.uint8) if mine.dtype == torch.bool else mine
        gathered: Tensor = self._model_calls.all_gather(message.unsqueeze(0), dim=0)
        return gathered.to(mine.dtype)

    def all_gather_bytes(self, received: Tensor, message: Tensor) -> None:
        """Write every rank's message into ``received``, by rank. Collective: all ranks must call this."""
        received.copy_(torch.cat(self._gather_on_host(message)))

    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Give rank ``src``'s tensor as a new one, on the device of this rank's. Collective: all ranks must call this.

        Shapes: the same on every rank.
        """
        mine = tensor.detach().resolve_conj().resolve_neg()
        if mine.device != self.device or self.world.world_size == 1 or not mine.numel():
            return self._gather_on_host(mine)[src].to(mine.device)
        return self.all_gather(mine)[src]

    def gather_object(self, obj: Any) -> list[Any]:
        """Give every rank's picklable object, by rank, on every rank. Collective: all ranks must call this."""
        return [pickle.loads(said) for said in self._exchange.gather(pickle.dumps(obj))]  # noqa: S301 - of our own ranks

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Give rank ``src``'s picklable object. Collective: all ranks must call this."""
        mine = pickle.dumps(obj) if self.world.rank == src else b""
        return pickle.loads(self._exchange.gather(mine)[src])  # noqa: S301 - of our own ranks

    def barrier(self) -> None:
        """Wait until every rank is here and its operations are under way. Collective: all ranks must call this."""
        self._torch_xla.sync()
        self._exchange.gather(b"")

    def _gather_on_host(self, tensor: Tensor) -> list[Tensor]:
        return [pickle.loads(said) for said in self._exchange.gather(pickle.dumps(tensor.cpu()))]  # noqa: S301

    def _broadcast(self, tensors: Sequence[Tensor]) -> None:
        unique = list({id(tensor): tensor for tensor in tensors}.values())
        on_device = [tensor for tensor in unique if tensor.device == self.device]
        if on_device:
            self._model_calls.collective_broadcast(on_device)
            self._torch_xla.sync()
        with torch.no_grad():
            for tensor in unique:
                if tensor.device != self.device:
                    tensor.copy_(self._gather_on_host(tensor.detach())[0])

    # ---- random numbers and copies

    def rng_state(self) -> dict[str, Any]:
        """Give the state of the device's generator, a plain number."""
        return {"device": int(self._model_calls.get_rng_state())}

    def set_rng_state(self, state: dict[str, Any]) -> None:
        """Put the device's generator into a state that ``rng_state`` gave."""
        if "device" in state:
            self._model_calls.set_rng_state(state["device"])

    def host_copy(self, tensor: Tensor) -> Tensor:
        """Give the tensor on the CPU: a file must not need a TPU to be read."""
        return tensor.detach().cpu()


def _combined(tensors: list[Tensor], op: ReduceOp) -> Tensor:
    stacked = torch.stack(tensors)
    if op == "max":
        return stacked.amax(0)
    total = stacked.sum(0, dtype=stacked.dtype)
    return total / len(tensors) if op == "mean" else total
