"""``Accelerator``: what a training function holds. Every verb delegates to the module that knows it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from notebook_accel.core import gather as collectives
from notebook_accel.core import prepare as preparing
from notebook_accel.core.accumulate import GradientWindow, local_gradients
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.loader import LoaderOptions, ShardedLoader
from notebook_accel.core.logged import plain
from notebook_accel.core.optimizer import PreparedOptimizer, PreparedScheduler
from notebook_accel.core.precision import make_precision, unwrap_forward
from notebook_accel.core.runtime import current
from notebook_accel.core.stopping import StopRequest
from notebook_accel.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


class Accelerator:
    """Makes a plain PyTorch loop run on every rank of the run that it is in.

    Build it inside the function that is launched, or in a script started with ``python`` or ``torchrun``.
    Collective: all ranks must build it.

    Args:
        mixed_precision: "no" or "bf16"; None takes what the run was started with.
        cpu: compute on the CPU even where there is an accelerator.
        device_placement: bring prepared models and batches to ``device``.
        split_batches: let a loader's batch size be that of the whole run, instead of that of every rank.
        even_batches: fill a loader's last round up with samples from its start, so that all ranks get the same.
        gradient_accumulation_steps: micro-batches for one optimizer step, 1 or more; see ``accumulate``.

    Raises:
        NotInWorkerError: built in a notebook kernel, outside a launched function.
        ConfigError: a value is wrong, or contradicts the run.
        NotAvailableError: a value is known but not built yet.

    Example:
        >>> accelerator = Accelerator(cpu=True)
        >>> model = torch.nn.Linear(2, 1)
        >>> model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> accelerator.backward(model(torch.ones(4, 2)).sum())
        >>> optimizer.step()
    """

    def __init__(
        self,
        *,
        mixed_precision: str | None = None,
        cpu: bool = False,
        device_placement: bool = True,
        split_batches: bool = False,
        even_batches: bool = True,
        gradient_accumulation_steps: int = 1,
    ) -> None:
        _check_steps(gradient_accumulation_steps)
        runtime = current(cpu=cpu)
        self._runtime = runtime
        asked = runtime.mixed_precision if mixed_precision is None else mixed_precision
        self._precision = make_precision(asked, torch.device(runtime.world.device_kind))
        self._backend = runtime.backend
        self._stop_request = StopRequest(runtime.asked_to_stop, self._backend)
        self._watch = EpochWatch()
        self._window = GradientWindow(gradient_accumulation_steps, self._watch)
        options = LoaderOptions(
            split_batches=split_batches,
            even_batches=even_batches,
            device=self._backend.device if device_placement else None,
            lookahead=max(1, gradient_accumulation_steps - 1),
        )
        self._kit = preparing.Kit(
            backend=self._backend,
            precision=self._precision,
            watch=self._watch,
            window=self._window,
            loader_options=options,
            device_placement=device_placement,
        )

    @property
    def device(self) -> torch.device:
        """What this rank computes on."""
        return self._backend.device

    @property
    def num_processes(self) -> int:
        """Number of ranks."""
        return self._backend.world.world_size

    @property
    def attempt(self) -> int:
        """How often the run was started before, with ``max_restarts``: 0 in the first attempt.

        Example:
            >>> Accelerator(cpu=True).attempt
            0
        """
        return self._backend.world.restart_count

    @property
    def process_index(self) -> int:
        """This rank's 0-based number among all."""
        return self._backend.world.rank

    @property
    def local_process_index(self) -> int:
        """This rank's 0-based number on its machine."""
        return self._backend.world.local_rank

    @property
    def is_main_process(self) -> bool:
        """True on rank 0."""
        return self._backend.world.is_main

    @property
    def is_local_main_process(self) -> bool:
        """True on the first rank of each machine."""
        return self._backend.world.is_local_main

    @property
    def is_last_process(self) -> bool:
        """True on the highest rank."""
        return self.process_index == self.num_processes - 1

    @property
    def mixed_precision(self) -> str:
        """What models compute in: "no" or "bf16"."""
        return self._precision.name

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches of a full accumulation window."""
        return self._window.steps

    @property
    def sync_gradients(self) -> bool:
        """True where the optimizer steps: on the last micro-batch of a window."""
        return self._window.is_step

    @property
    def should_stop(self) -> bool:
        """Whether the run was asked to end by itself, with ``Run.request_stop``; the same on all ranks at each step.

        Collective: all ranks must read it, equally often. Several ranks exchange a number each time, so read it where
        you can afford that: at the end of an epoch, or every few steps. Always False in a script, and with
        ``start_method="inline"``, where the cell is busy with the function and nobody can ask.

        Example:
            >>> accelerator = Accelerator(cpu=True)
            >>> for epoch in range(2):
            ...     if accelerator.should_stop:
            ...         break
            ...     print(f"epoch {epoch}")
            epoch 0
            epoch 1
        """
        return self._stop_request.is_agreed()

    def prepare(self, *objects: Any) -> Any:
        """Make models, optimizers, loaders and schedulers ready for the run, in any order.

        Collective: all ranks must call this, with the same kinds of objects in the same order.

        Args:
            objects: what to make ready; anything else comes back unchanged.

        Returns:
            The one object, or a tuple of all in the order given.

        Raises:
            NotAvailableError: a loader cannot be shared out correctly.
            ConfigError: a loader's batch size cannot be split among the ranks, or its sampler shares out already.
        """
        results = tuple(preparing.prepared(thing, self._kit) for thing in objects)
        return results[0] if len(results) == 1 else results

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Give ``model`` on the device, in the run's precision, with gradients averaged over the ranks.

        Collective: all ranks must call this.
        """
        return preparing.prepared_model(model, self._kit)

    def prepare_optimizer(self, optimizer: Optimizer) -> PreparedOptimizer:
        """Give ``optimizer`` standing still while gradients are accumulated."""
        return preparing.prepared_optimizer(optimizer, self._kit)

    def prepare_data_loader(self, data_loader: DataLoader[Any]) -> ShardedLoader:
        """Give this rank's share of ``data_loader``.

        Raises:
            NotAvailableError: the loader cannot be shared out correctly.
            ConfigError: its batch size cannot be split among the ranks, or its sampler shares out already.
        """
        return preparing.prepared_loader(data_loader, self._kit)

    def prepare_scheduler(self, scheduler: LRScheduler) -> PreparedScheduler:
        """Give ``scheduler`` stepping once for every batch of the run."""
        return preparing.prepared_scheduler(scheduler, self._kit)

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute gradients, of the loss divided by the number of micro-batches in the window.

        Collective: all ranks must call this for a prepared model.

        Args:
            loss: a scalar that is a mean over the batch.
            kwargs: as for ``Tensor.backward``.
        """
        size = self._window.size
        (loss if size == 1 else loss / size).backward(**kwargs)  # type: ignore[no-untyped-call]  # torch's own

    def accumulate(self, *models: nn.Module) -> AbstractContextManager[Any]:
        """Give the block of one micro-batch: prepared optimizers and schedulers act only on a window's last.

        A window holds ``gradient_accumulation_steps`` micro-batches, or as many as are left in the loader.

        Args:
            models: the prepared models trained; their gradients are exchanged on the last micro-batch only.

        Example:
            >>> accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
            >>> for _ in range(2):
            ...     with accelerator.accumulate():
            ...         print(accelerator.sync_gradients)
            False
            True
        """
        self._window.next_batch()
        return nullcontext() if self._window.is_step else local_gradients(models, self._backend)

    def autocast(self) -> AbstractContextManager[Any]:
        """Give a block whose operations run in the run's precision, for losses outside the model."""
        return self._precision.autocast()

    def gather(self, tensor: Any) -> Any:
        """Join every rank's tensors along the first dimension. Collective: all ranks must call this.

        Args:
            tensor: a tensor or a nested structure of tensors, of the same shapes on all ranks.

        Shapes: ``(B, ...) -> (W * B, ...)``, detached; ``() -> (W,)``.

        Raises:
            TypeError: a leaf is not a tensor.
            ConfigError: shapes or dtypes differ between ranks.
        """
        return collectives.gather(tensor, self._backend)

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """Gather, without the rows that only filled up a loader's last batch. Collective: all ranks must call this.

        Works on a batch's rows in the loop, and on an epoch's rows after it, before another loader is read.

        Args:
            input_data: a nested structure of tensors, or a list with one object per row.
            use_gather_object: send the list as picklable objects also when it holds tensors.

        Shapes: ``(B, ...) -> (rows without padding, ...)``; rank 0's rows come first.

        Raises:
            TypeError: objects that are not in a list.
            ConfigError: shapes or dtypes differ between ranks.
        """
        return collectives.gather_for_metrics(input_data, self._backend, self._watch, as_objects=use_gather_object)

    def reduce(self, tensor: Any, reduction: Literal["sum", "mean"] = "sum") -> Any:
        """Add up or average every rank's tensors into new ones. Collective: all ranks must call this.

        Args:
            tensor: a tensor or a nested structure of tensors, of the same shapes on all ranks.
            reduction: "sum" or "mean".

        Raises:
            TypeError: a leaf is not a tensor.
            ConfigError: shapes or dtypes differ between ranks, or ``reduction`` is unknown.
        """
        return collectives.reduce(tensor, self._backend, reduction)

    def pad_across_processes(self, tensor: Any, dim: int = 0, pad_index: float = 0, pad_first: bool = False) -> Any:
        """Pad every rank's tensors to the longest rank's. Collective: all ranks must call this.

        Args:
            tensor: a tensor or a nested structure of tensors.
            dim: the dimension that differs between ranks; tensors without it come back unchanged.
            pad_index: what to pad with.
            pad_first: pad before the data instead of after it.

        Raises:
            TypeError: a leaf is not a tensor.
            ConfigError: the number of dimensions or the dtype differs between ranks.
        """
        return collectives.pad_across_processes(
            tensor, self._backend, dim=dim, pad_index=pad_index, pad_first=pad_first
        )

    def clip_grad_norm_(self, parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2) -> Tensor:
        """Scale the gradients so that their common norm is at most ``max_norm``, and give the norm before.

        Args:
            parameters: whose gradients.
            max_norm: the bound.
            norm_type: ``p`` of the p-norm, may be infinite.
        """
        return nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)

    def clip_grad_value_(self, parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
        """Clamp every gradient to ``[-clip_value, clip_value]``."""
        nn.utils.clip_grad_value_(parameters, clip_value)

    def unwrap_model(self, model: nn.Module, keep_fp32_wrapper: bool = True) -> nn.Module:
        """Give the model that was prepared.

        Args:
            model: a prepared model, or any other, which comes back as it is.
            keep_fp32_wrapper: False takes the mixed precision off as well, for good: the prepared model, being the
                same object inside, then computes in 32 bit too.
        """
        inner = self._backend.unwrap_model(model)
        if not keep_fp32_wrapper:
            unwrap_forward(inner)
        return inner

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once per machine. Takes what the builtin takes."""
        if self.is_local_main_process:
            print(*args, **kwargs)  # noqa: T201 - its purpose

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Hand values to the notebook: ``result.metrics`` has what rank 0 logged, ``.of_rank(r)`` any rank's.

        Args:
            values: by name; tensors become numbers, which waits for the device.
            step: of the training.

        Example:
            >>> Accelerator().log({"loss": 0.5}, step=1)
        """
        self._runtime.log(plain(values), step)

    def wait_for_everyone(self) -> None:
        """Wait until every rank is here. Collective: all ranks must call this."""
        self._backend.barrier()

    def on_main_process(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Decorate ``function`` to run on rank 0 only; on the others it returns None.

        Example:
            >>> accelerator = Accelerator(cpu=True)
            >>> @accelerator.on_main_process
            ... def name():
            ...     return "main"
            >>> name()
            'main'
        """

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            return function(*args, **kwargs) if self.is_main_process else None

        return guarded

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run a block on rank 0, then on all others. Collective: all ranks must enter it."""
        if not self.is_main_process:
            self._backend.barrier()
        try:
            yield
        finally:
            # Also when rank 0 fails: the others must not wait for it for ever.
            if self.is_main_process:
                self._backend.barrier()


def _check_steps(steps: object) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        what = f"gradient_accumulation_steps must be a whole number of 1 or more, not {steps!r}"
        raise ConfigError(what, "1 steps on every batch")
