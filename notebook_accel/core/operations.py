"""Operations on nested structures for code that has no ``Accelerator`` at hand.

Names are those of Hugging Face Accelerate's utilities.
Source: https://huggingface.co/docs/accelerate/package_reference/utilities
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from notebook_accel.backends.base import ReduceOp
from notebook_accel.backends.compiled import uncompiled
from notebook_accel.core import collectives
from notebook_accel.core.precision import in_32_bit, unwrap_forward
from notebook_accel.core.runtime import current
from notebook_accel.core.tree import leaves, map_tree, move
from notebook_accel.errors import ConfigError


def gather(tensor: Any) -> Any:
    """Join every rank's tensors along the first dimension; see ``Accelerator.gather``. Collective."""
    return collectives.gather(tensor, current().exchange)


def gather_object(object: Any) -> list[Any]:  # noqa: A002 - Accelerate's name
    """Give what is in every rank's list, rank 0's first. Collective: all ranks must call this.

    Args:
        object: a list of picklable objects.

    Raises:
        ConfigError: on some rank it is no list.

    Example:
        >>> gather_object(["mine"])
        ['mine']
    """
    return collectives.gather_object(object, current().backend)


def reduce(tensor: Any, reduction: ReduceOp = "mean", scale: float = 1.0) -> Any:
    """Combine every rank's tensors elementwise; see ``Accelerator.reduce``. Collective: all ranks must call this."""
    return collectives.reduce(tensor, current().exchange, reduction, scale)


def pad_across_processes(tensor: Any, dim: int = 0, pad_index: float = 0, pad_first: bool = False) -> Any:
    """Pad every rank's tensors to the longest rank's; see ``Accelerator.pad_across_processes``. Collective."""
    return collectives.pad_across_processes(
        tensor, current().exchange, dim=dim, pad_index=pad_index, pad_first=pad_first
    )


def broadcast(tensor: Any, from_process: int = 0) -> Any:
    """Give one rank's tensors as new ones on every rank. Collective: all ranks must call this.

    Args:
        tensor: a tensor or a nested structure of tensors, of the same shapes on all ranks.
        from_process: whose.

    Raises:
        ConfigError: a leaf is not a tensor, shapes or dtypes differ between ranks, or there is no such rank.

    Example:
        >>> broadcast(torch.ones(1))
        tensor([1.])
    """
    return collectives.broadcast(tensor, current().exchange, from_process)


def broadcast_object_list(object_list: MutableSequence[Any], from_process: int = 0) -> MutableSequence[Any]:
    """Replace what is in a list by what is in one rank's, and give the list. Collective: all ranks must call this.

    Args:
        object_list: picklable objects; of any on the other ranks.
        from_process: whose.

    Raises:
        ConfigError: there is no such rank, or its list has another length.

    Example:
        >>> broadcast_object_list(["mine"])
        ['mine']
    """
    backend = current().backend
    collectives.check_rank(from_process, backend)
    sent = backend.broadcast_object(list(object_list), src=from_process)
    if len(sent) != len(object_list):
        what = f"rank {backend.world.rank}: a list of {len(object_list)}, but rank {from_process} has {len(sent)}"
        raise ConfigError(what, "pass a list of the same length on all ranks, such as [None] * n")
    for number, thing in enumerate(sent):
        object_list[number] = thing
    return object_list


def wait_for_everyone() -> None:
    """Wait until every rank is here. Collective: all ranks must call this."""
    current().backend.barrier()


def send_to_device(
    tensor: Any,
    device: torch.device | str | int,
    non_blocking: bool = False,
    skip_keys: Sequence[str] | str | None = None,
) -> Any:
    """Bring every tensor of a structure, and every object with a ``to`` method, to a device.

    Args:
        tensor: a nested structure.
        device: where to.
        non_blocking: do not wait for copies from pinned memory.
        skip_keys: keys of the outermost dict whose values stay where they are.

    Example:
        >>> send_to_device({"x": torch.ones(1), "name": "a"}, "cpu", skip_keys="name")
        {'x': tensor([1.]), 'name': 'a'}
    """
    device = torch.device(device)
    skipped = {skip_keys} if isinstance(skip_keys, str) else set(skip_keys or ())
    if not (skipped and isinstance(tensor, Mapping)):
        return move(tensor, device, non_blocking=non_blocking)
    kept = {key: value for key, value in tensor.items() if key in skipped}
    moved = move({key: value for key, value in tensor.items() if key not in skipped}, device, non_blocking=non_blocking)
    both = {key: kept[key] if key in kept else moved[key] for key in tensor}
    return both if type(tensor) is dict else type(tensor)(both)  # type: ignore[call-arg]  # as mappings are built


def recursively_apply(
    func: Callable[..., Any],
    data: Any,
    *args: Any,
    test_type: Callable[[Any], bool] = lambda leaf: isinstance(leaf, Tensor),
    error_on_other_type: bool = False,
    **kwargs: Any,
) -> Any:
    """Apply a function to the leaves of a structure that pass a test; the others stay.

    Args:
        func: called with the leaf, ``args`` and ``kwargs``.
        data: a nested structure.
        args: for ``func``.
        test_type: which leaves; tensors where left out.
        error_on_other_type: refuse other leaves.
        kwargs: for ``func``.

    Raises:
        ConfigError: a leaf does not pass, and that is asked for.

    Example:
        >>> recursively_apply(lambda tensor, by: tensor * by, [torch.ones(1), "text"], 2)
        [tensor([2.]), 'text']
    """
    if error_on_other_type:
        for path, leaf in leaves(data):
            if not test_type(leaf):
                what = f"recursively_apply got a {type(leaf).__name__} at {path or 'the top'}"
                raise ConfigError(what, "leave error_on_other_type out to keep such leaves")
    return map_tree(lambda leaf: func(leaf, *args, **kwargs) if test_type(leaf) else leaf, data)


def find_batch_size(data: Any) -> int | None:
    """Give the number of rows of the first tensor in a structure, None where there is none.

    Example:
        >>> find_batch_size({"name": "a", "x": torch.ones(3, 2)})
        3
    """
    return next((len(leaf) for _, leaf in leaves(data) if isinstance(leaf, Tensor) and leaf.ndim), None)


def find_device(data: Any) -> torch.device | None:
    """Give the device of the first tensor in a structure, None where there is none.

    Example:
        >>> find_device([torch.ones(1)])
        device(type='cpu')
    """
    return next((leaf.device for _, leaf in leaves(data) if isinstance(leaf, Tensor)), None)


def slice_tensors(data: Any, tensor_slice: slice) -> Any:
    """Take the same rows of every tensor in a structure.

    Example:
        >>> slice_tensors([torch.arange(4)], slice(1, 3))
        [tensor([1, 2])]
    """
    return map_tree(lambda leaf: leaf[tensor_slice] if isinstance(leaf, Tensor) else leaf, data)


def concatenate(data: Sequence[Any], dim: int = 0) -> Any:
    """Join structures of the same form, tensor by tensor.

    Args:
        data: at least one structure of tensors.
        dim: along which dimension.

    Raises:
        ConfigError: there is none, they differ in form, or a leaf is no tensor.

    Example:
        >>> concatenate([{"x": torch.ones(1)}, {"x": torch.zeros(1)}])
        {'x': tensor([1., 0.])}
    """
    flat = [list(leaves(one)) for one in data]
    if not flat or any([path for path, _ in one] != [path for path, _ in flat[0]] for one in flat):
        raise ConfigError("concatenate got structures of different forms, or none", "give at least one, all alike")
    for path, leaf in flat[0]:
        if not isinstance(leaf, Tensor):
            what = f"concatenate got a {type(leaf).__name__} at {path or 'the top'}"
            raise ConfigError(what, "pass tensors, in lists, tuples or dicts")
    columns = iter(list(zip(*([leaf for _, leaf in one] for one in flat), strict=True)))
    return map_tree(lambda _: torch.cat(next(columns), dim=dim), data[0])


def convert_to_fp32(tensor: Any) -> Any:
    """Bring every tensor of 16-bit floats in a structure to 32 bit.

    Example:
        >>> convert_to_fp32(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return map_tree(in_32_bit, tensor)


def convert_outputs_to_fp32(model_forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function answer in 32 bit.

    Args:
        model_forward: any function; an object comes back that can be pickled where it can.
    """
    return _In32Bit(model_forward)


class _In32Bit:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return convert_to_fp32(self.function(*args, **kwargs))


def extract_model_from_parallel(
    model: nn.Module, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
) -> nn.Module:
    """Take ``DistributedDataParallel`` and compilation off a model.

    Args:
        model: any model.
        keep_fp32_wrapper: False takes mixed precision off as well, for good.
        keep_torch_compile: leave a compiled model inside of the wrapper compiled.
    """
    inner = uncompiled(model)
    inner = inner.module if isinstance(inner, DistributedDataParallel) else model
    bare = uncompiled(inner)
    if not keep_fp32_wrapper:
        unwrap_forward(inner)
        unwrap_forward(bare)
    return inner if keep_torch_compile else bare
