"""FAKE: collectives on gloo."""

import torch
import torch.distributed as dist

from torch_xla import _world

REDUCE_SUM, REDUCE_MAX = "sum", "max"
calls = []


def all_reduce(reduce_type, inputs, scale=1.0, groups=None, pin_layout=True):
    several = not isinstance(inputs, torch.Tensor)
    tensors = inputs if several else [inputs.clone()]
    calls.append(("all_reduce", len(tensors)))
    for tensor in tensors:
        if _world.size() > 1:
            options = dist.AllreduceOptions()
            options.reduceOp = dist.ReduceOp.MAX if reduce_type == REDUCE_MAX else dist.ReduceOp.SUM
            _world.group().allreduce([tensor], options).wait()
        if scale != 1.0:
            tensor.mul_(scale)
    return inputs if several else tensors[0]


def all_gather(value, dim=0, groups=None, output=None, pin_layout=True):
    # Through bytes: gloo does not know every dtype that XLA does.
    if _world.size() == 1:
        return value.clone()
    # A copy: a single element may be contiguous with any stride, and that cannot be looked at as bytes.
    message = value.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    found = [torch.empty_like(message) for _ in range(_world.size())]
    _world.group().allgather([found], [message]).wait()
    return torch.cat([tensor.view(value.dtype) for tensor in found], dim)


def collective_broadcast(tensors, root_ordinal=0, groups=None, pin_layout=True):
    for tensor in tensors:
        options = dist.BroadcastOptions()
        options.rootRank = root_ordinal
        with torch.no_grad():
            _world.group().broadcast([tensor.data], options).wait()


def get_rng_state(device=None):
    return 7


def set_rng_state(seed, device=None):
    torch.manual_seed(seed)
