"""The backend of a run with one process: every collective answers at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from notebook_accel.backends.base import ANY_GROUP, PLAIN, Backend, GroupOptions, ReduceOp, Wrapping, check_op


class SingleBackend(Backend):
    """Null object: a world of one rank.

    Example:
        >>> from notebook_accel.world import World
        >>> SingleBackend(World()).gather_object("here")
        ['here']
    """

    name = "single"

    def setup(self, options: GroupOptions = ANY_GROUP) -> None:
        """Do nothing: there is nobody to connect to."""

    def teardown(self) -> None:
        """Do nothing."""

    def break_up(self) -> None:
        """Do nothing: nobody waits."""

    def rejoin(self) -> None:
        """Do nothing."""

    def wrap_model(self, model: nn.Module, wrapping: Wrapping = PLAIN) -> nn.Module:
        """Give ``model`` itself: its gradients are already those of all data."""
        del wrapping
        return model

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """Give ``model`` itself."""
        return model

    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """Copy ``tensor``; "mean" makes an integer tensor floating-point, as it does with more ranks.

        Raises:
            ConfigError: ``op`` is unknown.
        """
        check_op(op)
        copy = tensor.detach().clone()
        return copy / 1 if op == "mean" else copy

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Copy ``tensor``. Shapes: ``(...) -> (1, ...)``."""
        return tensor.detach().clone().unsqueeze(0)

    def all_gather_bytes(self, received: Tensor, message: Tensor) -> None:
        """Copy ``message``."""
        received.copy_(message)

    def broadcast(self, tensor: Tensor, src: int = 0) -> Tensor:
        """Copy ``tensor``."""
        del src
        return tensor.detach().clone()

    def gather_object(self, obj: Any) -> list[Any]:
        """Give ``[obj]``."""
        return [obj]

    def broadcast_object(self, obj: Any, src: int = 0) -> Any:
        """Give ``obj``."""
        del src
        return obj

    def scatter_object(self, objects: Sequence[Any] | None) -> Any:
        """Give the one object."""
        assert objects is not None
        return objects[0]

    def barrier(self) -> None:
        """Return at once."""
