"""A FAKE of torch_xla for tests: no XLA, no lazy tensors, no chips. Its devices are the CPU, its collectives gloo's.

The real torch_xla cannot form a world of several processes on a CPU; this stands in for it there, and nowhere else.
It has only the names that the package uses. FAKE_XLA_PROCESSES says how many processes xmp.spawn starts. Ordinals run
against the order of the processes, as nothing promises that they run with it.
"""

import torch

from torch_xla import _world

IS_A_FAKE = True
_XLAC = _world
__version__ = "0.0.fake"
synced = [0]
seeds = []


def device():
    _world.start()
    return torch.device("cpu")


def sync(wait=False, reset_scope=True):
    synced[0] += 1


def manual_seed(seed, device=None):
    seeds.append(seed)
    torch.manual_seed(seed)
