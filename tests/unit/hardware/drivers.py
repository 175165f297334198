"""Stand-ins for NVIDIA's driver: a library with the functions that are called, and a program on PATH."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

GIB = 2**30

# What the driver's tools print, on machines with such GPUs.
T4_PAIR = """\
0, GPU-6f3c1d5e-0001, Tesla T4, 15360, 7.5, Default, [N/A]
1, GPU-6f3c1d5e-0002, Tesla T4, 15360, 7.5, Exclusive_Process, [N/A]
"""
SLICED_LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-0b5ba0d6-0000-2b2c-524d-9e3d8d2b8a77)
"""
USAGE = """\
GPU-6f3c1d5e-0001, 97, 14000, 15360
GPU-6f3c1d5e-0002, 0, 3, 15360
GPU-odd, [N/A], [N/A], [N/A]
"""
USERS = """\
GPU-6f3c1d5e-0001, 4321, /usr/bin/python3 -m train, 13990
GPU-6f3c1d5e-0001, 99999999, [Not Found], [N/A]
"""


@dataclass
class FakeGpu:
    """A GPU, or a slice of one, as the driver's library holds it."""

    uuid: str
    name: str
    total: int = 16 * GIB
    used: int = 0
    capability: tuple[int, int] | None = (8, 0)
    mode: int = 0
    busy: int | None = 0
    processes: tuple[tuple[int, int | None], ...] = ()
    slices: tuple[FakeGpu | None, ...] | None = None


class NotSupportedError(Exception):
    """What the library raises where a GPU cannot say something."""


@dataclass
class FakeNvml:
    """The module ``pynvml``, as far as it is used."""

    gpus: list[FakeGpu]
    text: type = str
    calls: list[str] = field(default_factory=list)

    def nvmlInit(self):  # noqa: N802
        self.calls.append("init")

    def nvmlShutdown(self):  # noqa: N802
        self.calls.append("shutdown")

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"550.1" if self.text is bytes else "550.1"

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, number):  # noqa: N802
        return self.gpus[number]

    def nvmlDeviceGetUUID(self, gpu):  # noqa: N802
        return gpu.uuid.encode() if self.text is bytes else gpu.uuid

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return gpu.name.encode() if self.text is bytes else gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        return SimpleNamespace(total=gpu.total, free=gpu.total - gpu.used, used=gpu.used)

    def nvmlDeviceGetCudaComputeCapability(self, gpu):  # noqa: N802
        return self._known(gpu.capability)

    def nvmlDeviceGetComputeMode(self, gpu):  # noqa: N802
        return gpu.mode

    def nvmlDeviceGetMigMode(self, gpu):  # noqa: N802
        return [int(self._known(gpu.slices) is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, place):  # noqa: N802
        return self._known(gpu.slices[place] if place < len(gpu.slices) else None)

    def nvmlDeviceGetUtilizationRates(self, gpu):  # noqa: N802
        return SimpleNamespace(gpu=self._known(gpu.busy))

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in gpu.processes]

    @staticmethod
    def _known(value):
        if value is None:
            raise NotSupportedError
        return value


def sliced_machine() -> FakeNvml:
    """Two A100: the first in MIG mode with two slices in three places, the second whole."""
    parts = (
        FakeGpu("MIG-aaaa-1", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20 * GIB, busy=None, processes=((77, GIB),)),
        None,
        FakeGpu("MIG-bbbb-2", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 5 * GIB, busy=None),
    )
    return FakeNvml(
        [
            FakeGpu("GPU-a100-0", "NVIDIA A100-SXM4-40GB", 40 * GIB, slices=parts),
            FakeGpu("GPU-a100-1", "NVIDIA A100-SXM4-40GB", 40 * GIB),
        ]
    )


def program(folder: Path, text: str) -> None:
    """Put an ``nvidia-smi`` into a folder."""
    file = folder / "nvidia-smi"
    file.write_text(text)
    file.chmod(0o755)


def answering(folder: Path, **answers: str) -> None:
    """Put an ``nvidia-smi`` into a folder that answers questions whose arguments hold a word.

    ``compute_cap=...`` answers a question about compute_cap; one that no word fits fails.
    """
    cases = ""
    for word, answer in answers.items():
        file = folder / f"{word}.txt"
        file.write_text(answer)
        # Nothing but the shell itself: PATH holds this folder only.
        cases += f'*{word.replace("_list", "--list")}*) while IFS= read -r line; do echo "$line"; done <{file};;\n'
    program(folder, f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "not a valid field to query"; exit 2;;\nesac\n')
