from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from notebook_accel.core.accumulate import GradientWindow
from notebook_accel.core.epoch import EpochWatch
from notebook_accel.core.optimizer import PreparedOptimizer
from notebook_accel.core.plugins import GradientAccumulationPlugin
from notebook_accel.core.scaling import Unscaled
from notebook_accel.core.scheduler import PreparedScheduler


@pytest.fixture
def window() -> GradientWindow:
    return GradientWindow(GradientAccumulationPlugin(num_steps=2), EpochWatch())


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(1))


def test_is_an_optimizer_and_delegates(window: GradientWindow, weight: nn.Parameter):
    inner = AdamW([weight], lr=0.5)
    optimizer = PreparedOptimizer(inner, window, Unscaled())
    assert isinstance(optimizer, Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults
    other = nn.Parameter(torch.zeros(1))
    optimizer.add_param_group({"params": [other], "lr": 0.1})
    assert len(inner.param_groups) == 2
    optimizer.param_groups = inner.param_groups[:1]
    assert len(inner.param_groups) == 1
    weight.grad = torch.ones(1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0]["step"] == 1
    optimizer.load_state_dict(saved)
    assert inner.state_dict()["state"][0]["step"] == 1
    assert "AdamW" in repr(optimizer)


def test_no_public_method_works_on_a_state_of_its_own():
    for wrapper, base in ((PreparedOptimizer, Optimizer), (PreparedScheduler, LRScheduler)):
        public = {name for name, member in inspect.getmembers(base, inspect.isfunction) if not name.startswith("_")}
        assert public
        assert public <= set(vars(wrapper))


def test_hooks_reach_the_wrapped_optimizer(window: GradientWindow, weight: nn.Parameter):
    optimizer = PreparedOptimizer(SGD([weight], lr=0.5), window, Unscaled())
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append("stepped"))
    weight.grad = torch.ones(1)
    optimizer.step()
    assert seen == ["stepped"]


def test_stands_still_while_accumulating(window: GradientWindow, weight: nn.Parameter):
    optimizer = PreparedOptimizer(SGD([weight], lr=0.5), window, Unscaled())
    weight.grad = torch.ones(1)
    window.is_step = False
    optimizer.step()
    optimizer.zero_grad()
    assert weight.item() == 1
    assert weight.grad is not None
    window.is_step = True
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert weight.item() == 0.5
    assert weight.grad.item() == 0
    optimizer.zero_grad()
    assert weight.grad is None


def test_closure_is_handed_on(window: GradientWindow, weight: nn.Parameter):
    optimizer = PreparedOptimizer(SGD([weight], lr=0.0), window, Unscaled())
    assert optimizer.step(lambda: torch.tensor(3.0)).item() == 3


def test_travels_with_what_it_wraps(window: GradientWindow, weight: nn.Parameter):
    back = pickle.loads(pickle.dumps(PreparedOptimizer(SGD([weight], lr=0.25), window, Unscaled())))
    assert back.param_groups[0]["lr"] == 0.25
    assert copy.deepcopy(back).param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("prepared_first", [True, False])
def test_scheduler_sets_the_rate_of_the_wrapped_optimizer(
    window: GradientWindow, weight: nn.Parameter, prepared_first: bool
):
    inner = SGD([weight], lr=1.0)
    optimizer = PreparedOptimizer(inner, window, Unscaled())
    scheduler = LambdaLR(optimizer if prepared_first else inner, lambda step: 1.0 - step / 10)
    prepared = PreparedScheduler(scheduler, window, Unscaled(), steps=2)
    weight.grad = torch.ones(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        prepared.step()
    assert inner.param_groups[0]["lr"] == pytest.approx(0.8)
    assert prepared.get_last_lr() == pytest.approx([0.8])
    assert prepared.last_epoch == 2
    window.is_step = False
    prepared.step()
    assert prepared.last_epoch == 2
    prepared.load_state_dict({**prepared.state_dict(), "last_epoch": 7})
    assert scheduler.last_epoch == 7
    assert isinstance(prepared, LRScheduler)


@pytest.mark.parametrize("adjusts", [True, False])
def test_calls_while_accumulating_are_counted_where_that_is_wanted(weight: nn.Parameter, adjusts: bool):
    window = GradientWindow(GradientAccumulationPlugin(num_steps=2, adjust_scheduler=adjusts), EpochWatch())
    optimizer = SGD([weight], lr=1.0)
    prepared = PreparedScheduler(LambdaLR(optimizer, lambda step: 1.0 - step / 10), window, Unscaled(), steps=1)
    plateau = PreparedScheduler(ReduceLROnPlateau(optimizer), window, Unscaled(), steps=1)
    counted = prepared.state_dict()["_step_count"]
    window.is_step = False
    prepared.step()
    plateau.step(1.0)
    assert prepared.state_dict()["_step_count"] == counted + adjusts
    assert (prepared.last_epoch, prepared.get_last_lr(), plateau.last_epoch) == (0, [1.0], 0)


def test_schedule_of_fixed_length_ends_quietly(window: GradientWindow, weight: nn.Parameter):
    optimizer = SGD([weight], lr=1.0)
    prepared = PreparedScheduler(OneCycleLR(optimizer, max_lr=1.0, total_steps=5), window, Unscaled(), steps=2)
    optimizer.step()
    for _ in range(4):
        prepared.step()
    assert prepared.last_epoch == 5


def test_metric_is_counted_once(window: GradientWindow, weight: nn.Parameter):
    prepared = PreparedScheduler(ReduceLROnPlateau(SGD([weight], lr=1.0), patience=2), window, Unscaled(), steps=4)
    for _ in range(3):
        prepared.step(1.0)
    assert prepared.num_bad_epochs == 2
