"""Keyword handlers: what users pass on to the parts of torch that an ``Accelerator`` builds.

Names and defaults are those of Hugging Face Accelerate.
Source: https://huggingface.co/docs/accelerate/package_reference/kwargs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar

from torch import nn

from notebook_accel.errors import ConfigError, NotAvailableError

_NOT_BUILT = {"FP8RecipeKwargs", "AORecipeKwargs", "TERecipeKwargs", "MSAMPRecipeKwargs"}


class KwargsHandler:
    """Base of all handlers."""

    def to_kwargs(self) -> dict[str, Any]:
        """Give what differs from the defaults.

        Example:
            >>> GradScalerKwargs(init_scale=8.0).to_kwargs()
            {'init_scale': 8.0}
        """
        default = type(self)()
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]  # every handler is a dataclass
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}


@dataclass(frozen=True)
class AutocastKwargs(KwargsHandler):
    """How mixed precision blocks behave.

    Attributes:
        enabled: False computes in 32 bit inside of them.
        cache_enabled: keep the lowered copies of the weights within a block.
    """

    enabled: bool = True
    cache_enabled: bool | None = None


@dataclass(frozen=True)
class GradScalerKwargs(KwargsHandler):
    """How gradients are scaled with ``mixed_precision="fp16"``; see ``torch.amp.GradScaler``."""

    init_scale: float = 65536.0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    enabled: bool = True


@dataclass(frozen=True)
class InitProcessGroupKwargs(KwargsHandler):
    """How the ranks are joined.

    Attributes:
        backend: the engine, such as "gloo" or "nccl"; None takes the one for the device.
        init_method: None or "env://"; the launcher says where the ranks meet.
        timeout: how long a rank waits for the others in a collective; None takes torch's default.
    """

    backend: str | None = None
    init_method: str | None = None
    timeout: timedelta | None = None


@dataclass(frozen=True)
class ProfileKwargs(KwargsHandler):
    """What ``Accelerator.profile`` records; see ``torch.profiler.profile``.

    Attributes:
        activities: "cpu", "cuda" and so on; None takes all there are.
        schedule_option: arguments of ``torch.profiler.schedule``.
        on_trace_ready: called with the profiler at the end of each cycle.
        record_shapes: record the operators' shapes.
        profile_memory: record allocations.
        with_stack: record the source lines.
        with_flops: estimate operations.
        with_modules: record the modules' hierarchy.
        output_trace_dir: folder that each rank writes its trace to.
    """

    activities: Sequence[str] | None = None
    schedule_option: Mapping[str, int] | None = None
    on_trace_ready: Callable[..., Any] | None = None
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False
    with_flops: bool = False
    with_modules: bool = False
    output_trace_dir: str | None = None


class DDPCommunicationHookType(Enum):
    """How gradients are compressed on their way between the ranks."""

    NO = "no"
    FP16 = "fp16"
    BF16 = "bf16"
    POWER_SGD = "power_sgd"
    BATCHED_POWER_SGD = "batched_power_sgd"


@dataclass(frozen=True)
class DistributedDataParallelKwargs(KwargsHandler):
    """How models are wrapped on several ranks; see ``torch.nn.parallel.DistributedDataParallel``.

    Attributes:
        dim: as there.
        broadcast_buffers: as there.
        bucket_cap_mb: as there, in mebibytes.
        find_unused_parameters: as there.
        check_reduction: as there.
        gradient_as_bucket_view: as there.
        static_graph: as there.
        comm_hook: how gradients are compressed.
        comm_wrapper: in what that compression computes, FP16 or BF16.
        comm_state_option: arguments of ``PowerSGDState``.
    """

    dim: int = 0
    broadcast_buffers: bool = True
    bucket_cap_mb: float | None = None
    find_unused_parameters: bool = False
    check_reduction: bool = False
    gradient_as_bucket_view: bool = False
    static_graph: bool = False
    comm_hook: DDPCommunicationHookType = DDPCommunicationHookType.NO
    comm_wrapper: DDPCommunicationHookType = DDPCommunicationHookType.NO
    comm_state_option: Mapping[str, Any] | None = None

    def to_kwargs(self) -> dict[str, Any]:
        """Give what the wrapper's constructor takes."""
        hooks = ("comm_hook", "comm_wrapper", "comm_state_option")
        return {name: value for name, value in super().to_kwargs().items() if name not in hooks}

    def register_comm_hook(self, model: nn.Module) -> None:
        """Let a wrapped model exchange its gradients compressed.

        Args:
            model: a ``DistributedDataParallel``.

        Raises:
            ConfigError: ``comm_wrapper`` is none, or there is nothing to wrap.
            NotAvailableError: torch cannot do that between these devices.
        """
        kinds = DDPCommunicationHookType
        if self.comm_wrapper not in (kinds.NO, kinds.FP16, kinds.BF16):
            raise ConfigError(f"comm_wrapper={self.comm_wrapper.name} wraps nothing", "use NO, FP16 or BF16")
        if self.comm_hook is kinds.NO:
            if self.comm_wrapper is not kinds.NO:
                raise ConfigError("comm_wrapper without comm_hook", "name a comm_hook, or leave comm_wrapper out")
            return
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook  # noqa: PLC0415 - slow

        hook: Any = {
            kinds.FP16: default_hooks.fp16_compress_hook,
            kinds.BF16: default_hooks.bf16_compress_hook,
            kinds.POWER_SGD: powerSGD_hook.powerSGD_hook,
            kinds.BATCHED_POWER_SGD: powerSGD_hook.batched_powerSGD_hook,
        }[self.comm_hook]
        state = None
        if self.comm_hook in (kinds.POWER_SGD, kinds.BATCHED_POWER_SGD):
            state = powerSGD_hook.PowerSGDState(None, **(self.comm_state_option or {}))
        if self.comm_wrapper is kinds.FP16:
            hook = default_hooks.fp16_compress_wrapper(hook)
        elif self.comm_wrapper is kinds.BF16:
            hook = default_hooks.bf16_compress_wrapper(hook)
        try:
            model.register_comm_hook(state, hook)  # type: ignore[operator]  # a DistributedDataParallel's method
        except (TypeError, ValueError) as error:
            what = f"comm_hook={self.comm_hook.name} with comm_wrapper={self.comm_wrapper.name}: {error}"
            raise NotAvailableError(what, "use FP16 or POWER_SGD, or leave it out") from None


H = TypeVar("H", bound=KwargsHandler)


def one_of(kind: type[H], handlers: Sequence[object]) -> H:
    """Give the handler of a kind, or its defaults.

    Example:
        >>> one_of(AutocastKwargs, [GradScalerKwargs()]).enabled
        True
    """
    return next((handler for handler in handlers if isinstance(handler, kind)), kind())


def check_handlers(handlers: Sequence[object]) -> None:
    """Refuse handlers that nobody reads, and two of one kind.

    Raises:
        ConfigError: no handler, or the second of a kind.
        NotAvailableError: one for something that is not built.
    """
    known = KwargsHandler.__subclasses__()
    names = ", ".join(sorted(kind.__name__ for kind in known))
    seen: set[type] = set()
    for handler in handlers:
        if type(handler).__name__ in _NOT_BUILT:
            what = f"kwargs_handlers holds a {type(handler).__name__}, and fp8 is not built"
            raise NotAvailableError(what, "leave it out, and use mixed_precision='bf16' or 'fp16'")
        if not isinstance(handler, KwargsHandler):
            raise ConfigError(f"kwargs_handlers holds {handler!r}, which is no handler", f"use {names}")
        if type(handler) in seen:
            raise ConfigError(f"kwargs_handlers holds two {type(handler).__name__}", "bring them together in one")
        seen.add(type(handler))
