"""Random numbers: the same ones when a seed is given, fresh ones otherwise, one order on all ranks for samplers."""

from __future__ import annotations

import random
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from notebook_accel.backends.base import Backend
from notebook_accel.core.runtime import current

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
