"""Who a rank is: one frozen value, and the environment variables that other libraries read it from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

DeviceKind = Literal["cpu", "cuda", "mps", "xla", "tpu"]


class DistributedType(str, Enum):
    """What kind of ranks a run has.

    The members below ``XLA`` are engines of Hugging Face Accelerate that are not built here: a script that compares
    with them finds that they are not in use.

    Example:
        >>> DistributedType.TPU is DistributedType.XLA
        True
    """

    NO = "NO"
    MULTI_CPU = "MULTI_CPU"
    MULTI_GPU = "MULTI_GPU"
    XLA = "XLA"
    TPU = "XLA"  # noqa: PIE796 - its older name
    DEEPSPEED = "DEEPSPEED"
    FSDP = "FSDP"
    MEGATRON_LM = "MEGATRON_LM"
    MULTI_HPU = "MULTI_HPU"
    MULTI_MLU = "MULTI_MLU"
    MULTI_MUSA = "MULTI_MUSA"
    MULTI_NEURON = "MULTI_NEURON"
    MULTI_NPU = "MULTI_NPU"
    MULTI_SDAA = "MULTI_SDAA"
    MULTI_XPU = "MULTI_XPU"


_TYPE_OF_ANY = {
    "xla": DistributedType.XLA,
    "tpu": DistributedType.TPU,
}  # also for one: such a rank has rules of its own
_TYPE_OF_SEVERAL = {"cpu": DistributedType.MULTI_CPU, "cuda": DistributedType.MULTI_GPU}


@dataclass(frozen=True, kw_only=True)
class World:
    """One rank's place in a run.

    Attributes:
        rank: 0-based number of this process among all.
        world_size: number of processes of the run.
        local_rank: 0-based number of this process on its machine.
        local_world_size: number of processes on this machine.
        device_kind: what every rank computes on.
        master_addr: address of the rendezvous store.
        master_port: port of the rendezvous store, 0 when there is none.
        agent_store: True when the launcher hosts the store, so that no rank has to.
        restart_count: how often the run was started before.
        max_restarts: how often it may be started again.

    Example:
        >>> World(rank=1, world_size=2, local_rank=1, local_world_size=2).is_main
        False
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    device_kind: DeviceKind = "cpu"
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    agent_store: bool = False
    restart_count: int = 0
    max_restarts: int = 0

    @property
    def is_main(self) -> bool:
        """True on rank 0."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """True on the first rank of each machine."""
        return self.local_rank == 0

    @property
    def distributed_type(self) -> DistributedType:
        """What kind of ranks the run has."""
        if self.device_kind in _TYPE_OF_ANY:
            return _TYPE_OF_ANY[self.device_kind]
        if self.world_size == 1:
            return DistributedType.NO
        return _TYPE_OF_SEVERAL.get(self.device_kind, DistributedType.MULTI_CPU)

    def to_env(self, run_id: str = "none", mixed_precision: str = "no") -> dict[str, str]:
        """Give the variables that torchrun would set, so that any framework finds its place, and those of Accelerate.

        Args:
            run_id: a name that the ranks of one run share.
            mixed_precision: what the launch asked for; Hugging Face Accelerate's launchers set it too.

        Source: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
        """
        local_world = str(self.local_world_size)
        variables = {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": local_world,
            "GROUP_RANK": "0",
            "GROUP_WORLD_SIZE": "1",
            "ROLE_NAME": "default",
            "ROLE_RANK": str(self.rank),
            "ROLE_WORLD_SIZE": str(self.world_size),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
            "TORCHELASTIC_RESTART_COUNT": str(self.restart_count),
            "TORCHELASTIC_MAX_RESTARTS": str(self.max_restarts),
            "TORCHELASTIC_RUN_ID": run_id,
            "TORCHELASTIC_USE_AGENT_STORE": str(self.agent_store),
            "ACCELERATE_MIXED_PRECISION": mixed_precision,
        }
        if self.device_kind == "cpu":
            variables["ACCELERATE_USE_CPU"] = "true"
        return variables
