"""Which backend a run gets: the only place where backends are told apart by name."""

from __future__ import annotations

import torch.distributed as dist

from notebook_accel.backends.base import Backend
from notebook_accel.backends.distributed import DistributedBackend, Engine
from notebook_accel.backends.single import SingleBackend
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.world import World

ENGINES = {
    "gloo": Engine(name="gloo", device_bound=False),
    "nccl": Engine(name="nccl", device_bound=True),
}
_ENGINE_OF_DEVICE = {"cpu": "gloo", "cuda": "nccl"}


def choose(world: World, engine: str | None = None) -> Backend:
    """Give the backend for ``world``, not yet set up.

    Args:
        world: this process's place in the run.
        engine: what carries the messages between several ranks; None takes the one for the device.

    Raises:
        NotAvailableError: nothing carries messages between ranks on this kind of device.
        ConfigError: a process group exists that is not this run's, or the device is missing.

    Example:
        >>> choose(World()).name
        'single'
    """
    if world.device_kind == "xla":
        from notebook_accel.backends.xla import XlaBackend  # noqa: PLC0415 - no other run needs it

        return XlaBackend(world)
    if world.device_kind == "tpu":
        from notebook_accel.backends.torch_tpu import TorchTpuBackend  # noqa: PLC0415 - the same

        return TorchTpuBackend(world)
    if world.world_size > 1:
        return DistributedBackend(world, _engine(world, engine))
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        what = f"this process is alone in its run, but is in a process group of {dist.get_world_size()}"
        raise ConfigError(what, "start the script with torchrun, which sets RANK and WORLD_SIZE on every rank")
    return SingleBackend(world)


def _engine(world: World, asked: str | None) -> Engine:
    if not dist.is_available():
        what = f"rank {world.rank}: this build of torch has no torch.distributed"
        raise NotAvailableError(what, "run one process, or install a build of torch with distributed support")
    name = _ENGINE_OF_DEVICE.get(world.device_kind)
    if dist.is_initialized():
        pairs = dict(pair.split(":") for pair in str(dist.get_backend_config()).split(","))
        name = pairs.get(world.device_kind, name)
    if asked is not None and asked != name:
        what = f"rank {world.rank}: messages between {world.device_kind} ranks are carried by {name}, not by {asked}"
        raise ConfigError(what, f"leave the backend out, or name {name!r}")
    if name not in ENGINES:
        what = f"rank {world.rank}: no way to join {world.world_size} ranks on {world.device_kind} (engine {name})"
        raise NotAvailableError(what, "run one process, or compute on the CPU or on CUDA devices")
    return ENGINES[name]
