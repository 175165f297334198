"""The backend on ``torch_tpu``, EXPERIMENTAL: written to its Python sources, never run on a TPU."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from notebook_accel.backends.distributed import DistributedBackend, Engine
from notebook_accel.errors import ConfigError
from notebook_accel.world import World

# What is gathered travels from CPU memory, over gloo; the gradients of DDP between the chips.
_ENGINE = Engine(name="cpu:gloo,tpu:tpu_dist", device_bound=False)


class TorchTpuBackend(DistributedBackend):
    """All ranks of the run, each with one chip, whose gradients DDP averages.

    Checkpoints do not hold the state of the device's random numbers: torch_tpu lets nobody but torch read it.

    Args:
        world: this process's place in the run.

    Raises:
        ConfigError: torch_tpu sees no chip.
    """

    refused_precisions = MappingProxyType(
        {"fp16": "a TPU computes in bfloat16, which needs no gradient scaler", "fp8": "it is not built for a TPU"}
    )

    def __init__(self, world: World) -> None:
        if torch._C._get_privateuse1_backend_name() != "tpu":  # noqa: SLF001 - the question without an answer in public
            what = f"rank {world.rank}: torch_tpu has found no TPU chip that it may use"
            raise ConfigError(what, "see whether this user may read /dev/vfio, where it looks for the chips")
        super().__init__(world, _ENGINE)

    def host_copy(self, tensor: Tensor) -> Tensor:
        """Give the tensor on the CPU: a file must not need a TPU to be read."""
        return tensor.detach().cpu()
