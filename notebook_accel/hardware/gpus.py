"""What NVIDIA's driver says of the machine's GPUs, whoever asked it, before anybody chose among them."""

from __future__ import annotations

from dataclasses import dataclass

from notebook_accel.hardware.inventory import ComputeMode


@dataclass(frozen=True)
class Slice:
    """A part of a GPU that behaves as one (Multi-Instance GPU).

    Attributes:
        uuid: the driver's name for it.
        name: its size, such as "1g.5gb".
        memory_total_bytes: its memory, 0 where unknown.
    """

    uuid: str
    name: str
    memory_total_bytes: int = 0


@dataclass(frozen=True)
class Gpu:
    """A GPU of the machine, whether this process may see it or not.

    Attributes:
        number: in the order of the bus, as nvidia-smi counts.
        uuid: the driver's name for it.
        name: its model.
        memory_total_bytes: its memory, 0 where unknown.
        compute_capability: None where unknown.
        compute_mode: how many processes may use it.
        is_sliced: whether it can be used by its slices only.
        slices: of a sliced one.
    """

    number: int
    uuid: str
    name: str
    memory_total_bytes: int
    compute_capability: tuple[int, int] | None = None
    compute_mode: ComputeMode = "shared"
    is_sliced: bool = False
    slices: tuple[Slice, ...] = ()
