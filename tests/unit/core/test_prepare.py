from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from notebook_accel.core.kit import Kit
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer
from notebook_accel.core.precision import AutocastForward
from notebook_accel.core.prepare import prepared
from notebook_accel.core.runtime import Runtime
from notebook_accel.core.scheduler import PreparedScheduler
from notebook_accel.core.settings import Settings
from notebook_accel.errors import ConfigError
from notebook_accel.world import World


def kit(*, precision: str = "no", placement: bool = True) -> Kit:
    settings = Settings(device_placement=placement, mixed_precision=precision)
    made = Kit.of(Runtime(World()), settings)
    made.backend.device = torch.device("meta")
    return made


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(1, 1)


def test_each_kind_gets_its_own(model: nn.Module):
    optimizer = SGD(model.parameters(), lr=1.0)
    assert type(prepared(optimizer, kit())) is PreparedOptimizer
    assert type(prepared(ConstantLR(optimizer), kit())) is PreparedScheduler
    assert type(prepared(DataLoader([1]), kit())) is ShardedLoader


@pytest.mark.parametrize("thing", [None, 3, "text", [1], {"a": 1}, torch.ones(1)], ids=repr)
def test_unknown_objects_come_back_unchanged(thing: object):
    assert prepared(thing, kit()) is thing


def test_models_are_placed_where_that_is_wanted(model: nn.Module):
    prepared(model, kit(placement=False))
    assert model.weight.device.type == "cpu"
    prepared(model, kit())
    assert model.weight.device.type == "meta"


def test_models_get_the_precision(model: nn.Module):
    assert prepared(model, kit()).forward == model.forward
    prepared(model, kit(precision="bf16"))
    assert isinstance(model.forward, AutocastForward)


def test_what_is_ready_comes_back(model: nn.Module):
    optimizer = SGD(model.parameters(), lr=1.0)
    one = kit(placement=False)
    for thing in (model, optimizer, ConstantLR(optimizer), DataLoader([1])):
        once = prepared(thing, one)
        assert prepared(once, one) is once
    assert [len(things) for things in vars(one.prepared).values()] == [1, 1, 1, 1, 0]


def test_the_raw_object_is_refused_a_second_time(model: nn.Module):
    optimizer = SGD(model.parameters(), lr=1.0)
    one = kit()
    for thing in (optimizer, ConstantLR(optimizer)):
        prepared(thing, one)
        with pytest.raises(ConfigError, match="prepared before"):
            prepared(thing, one)
