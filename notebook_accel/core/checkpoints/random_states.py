"""The state of all generators of a rank, in the form that Hugging Face Accelerate keeps it in."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from notebook_accel.backends.base import Backend

_DEVICES = ("cuda", "xpu")


def random_states(backend: Backend, step: int) -> dict[str, Any]:
    """Give the state of Python's, NumPy's, torch's and the devices' generators, as plain data and tensors.

    Args:
        backend: knows of generators that torch does not know.
        step: how many micro-batches were entered.
    """
    states: dict[str, Any] = {
        "step": step,
        "random_state": random.getstate(),
        "torch_manual_seed": torch.get_rng_state(),
        "backend": backend.rng_state(),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        states["numpy_random_seed"] = (kind, keys.tolist(), *rest)  # plain numbers: nothing of NumPy's to be unpickled
    for name, module in _modules().items():
        states[f"torch_{name}_manual_seed"] = module.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["torch_mps_manual_seed"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Any], backend: Backend) -> list[str]:
    """Put the generators into states of ``random_states``, and give which could not be put, in words.

    Args:
        states: of this rank.
        backend: knows of generators that torch does not know.
    """
    left = []
    random.setstate(_tuples(states["random_state"]))
    numpy = sys.modules.get("numpy")
    if numpy is not None and "numpy_random_seed" in states:
        numpy.random.set_state(tuple(states["numpy_random_seed"]))
    torch.set_rng_state(states["torch_manual_seed"])
    for name, module in _modules().items():
        saved = states.get(f"torch_{name}_manual_seed", [])
        if len(saved) != module.device_count():
            left.append(f"the generators of {module.device_count()} {name} devices ({len(saved)} were saved)")
            continue
        module.set_rng_state_all(saved)
    if torch.backends.mps.is_available() and "torch_mps_manual_seed" in states:
        torch.mps.set_rng_state(states["torch_mps_manual_seed"])
    backend.set_rng_state(states.get("backend", {}))
    return left


def _modules() -> dict[str, Any]:
    found = {name: getattr(torch, name, None) for name in _DEVICES}
    return {name: module for name, module in found.items() if module is not None and module.is_available()}


def _tuples(state: Any) -> Any:
    return tuple(map(_tuples, state)) if isinstance(state, (list, tuple)) else state
