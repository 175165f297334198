from __future__ import annotations

import torch

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.core.stopping import StopRequest
from notebook_accel.world import World


class Counting(SingleBackend):
    """Counts the exchanges, and lets another rank have been asked in the second."""

    exchanges = 0

    def all_reduce(self, tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
        assert op == "max"
        self.exchanges += 1
        return torch.ones_like(tensor) if self.exchanges == 2 else tensor


def test_where_nobody_can_ask_nothing_is_exchanged():
    backend = Counting(World())
    assert not StopRequest(None, backend).is_agreed()
    assert backend.exchanges == 0


def test_all_stop_when_one_was_asked_and_need_no_further_exchange():
    backend = Counting(World())
    request = StopRequest(lambda: False, backend)
    assert [request.is_agreed() for _ in range(4)] == [False, True, True, True]
    assert backend.exchanges == 2


def test_an_accelerator_asks_its_runtime():
    asked: list[bool] = []
    with activate(Runtime(World(), asked_to_stop=lambda: bool(asked))):
        accelerator = Accelerator(cpu=True)
        assert accelerator.should_stop is False
        asked.append(True)
        assert accelerator.should_stop is True
        asked.clear()
        assert accelerator.should_stop is True, "what was agreed stands"
    with activate(Runtime(World())):
        assert Accelerator(cpu=True).should_stop is False
