"""Random numbers: the same ones when a seed is given, fresh ones otherwise, one order on all ranks for samplers."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.runtime import current
from notebook_accel.errors import ConfigError, NotAvailableError

_NUMPY_SEEDS = 2**32


def seed_everything(seed: int) -> None:
    """Seed Python's, torch's and, where it is imported, NumPy's generators, on every device.

    Args:
        seed: 0 or more; NumPy gets it modulo 2**32.

    Example:
        >>> seed_everything(7); first = torch.rand(1)
        >>> seed_everything(7); bool(first == torch.rand(1))
        True
    """
    random.seed(seed)
    torch.manual_seed(seed)
    xla = sys.modules.get("torch_xla")
    if xla is not None and xla._XLAC._xla_runtime_is_initialized():  # noqa: SLF001 - to ask in public would start it
        xla.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % _NUMPY_SEEDS)


def seed_from_entropy() -> int:
    """Seed every generator from the operating system's entropy, and give the seed.

    A forked process needs this: it starts with its parent's generators, so all children would draw the same.
    """
    seed = secrets.randbits(63)
    seed_everything(seed)
    return seed


def set_seed(seed: int, device_specific: bool = False, deterministic: bool = False) -> None:
    """Seed every generator of this rank.

    Args:
        seed: 0 or more.
        device_specific: add the rank to the seed, so that ranks draw different numbers.
        deterministic: let torch use deterministic algorithms only; operations that have none raise.

    Raises:
        NotInWorkerError: ``device_specific`` in a notebook kernel, where no rank is running.

    Example:
        >>> set_seed(42)
    """
    seed_everything(seed + current().world.rank if device_specific else seed)
    if deterministic:
        torch.use_deterministic_algorithms(mode=True)


class RNGType(str, Enum):
    """Generators that can be brought in step, by the names that users of Hugging Face Accelerate know."""

    TORCH = "torch"
    CUDA = "cuda"
    XPU = "xpu"
    XLA = "xla"
    GENERATOR = "generator"


def rng_types_from(names: Iterable[str | RNGType]) -> tuple[RNGType, ...]:
    """Give the kinds of generators called so.

    Raises:
        ConfigError: an unknown one.
    """
    known = {kind.value: kind for kind in RNGType}
    for name in names:
        if str(getattr(name, "value", name)) not in known:
            raise ConfigError(f"unknown rng_type {name!r}", f"use one of {', '.join(known)}")
    return tuple(known[str(getattr(name, "value", name))] for name in names)


def synchronize_rng_states(rng_types: Sequence[str | RNGType], generator: torch.Generator | None = None) -> None:
    """Give every rank rank 0's generators of these kinds. Collective: all ranks must call this.

    Args:
        rng_types: "torch", "cuda", "xpu" or "generator".
        generator: what "generator" means.

    Raises:
        ConfigError: an unknown kind, or "generator" without one.

    Example:
        >>> synchronize_rng_states(["torch"])
    """
    backend = current().backend
    kinds = rng_types_from(rng_types)
    if RNGType.GENERATOR in kinds and generator is None:
        raise ConfigError('rng_types holds "generator", but no generator is given', "pass generator=...")
    for kind in kinds:
        on_xla = kind is RNGType.XLA and backend.rng_state()
        get, put = (backend.rng_state, backend.set_rng_state) if on_xla else _access(kind, generator)
        put(backend.broadcast_object(get()))


def _access(kind: RNGType, generator: torch.Generator | None) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    if kind is RNGType.GENERATOR:
        assert generator is not None
        return generator.get_state, lambda state: _set(generator, state)
    modules = {RNGType.CUDA: torch.cuda, RNGType.XPU: getattr(torch, "xpu", None)}
    module = modules.get(kind)
    if module is not None:
        return module.get_rng_state, module.set_rng_state
    if kind is RNGType.XLA:
        raise NotAvailableError("rng_types holds 'xla', and this run has no XLA devices", "leave it out")
    return torch.get_rng_state, torch.set_rng_state


def _set(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


@contextmanager
def same_draws(backend: Backend, generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Let every rank draw in the block what rank 0 draws. Collective: all ranks must call this.

    Torch's default generator goes on as rank 0's would on rank 0, and as if nothing was drawn on the others.

    Args:
        backend: the connection to the other ranks.
        generators: other generators that the block draws from; they get rank 0's state and stay in step.
    """
    own = torch.get_rng_state()
    states = backend.broadcast_object([own, *(generator.get_state() for generator in generators)])
    for generator, state in zip(generators, states[1:], strict=True):
        generator.set_state(state)
    torch.set_rng_state(states[0])
    try:
        yield
    finally:
        if not backend.world.is_main:
            torch.set_rng_state(own)
