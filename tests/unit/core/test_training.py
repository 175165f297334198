from __future__ import annotations

import gc
import itertools
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.compiling import DynamoBackend, TorchDynamoPlugin
from notebook_accel.core.handlers import (
    AutocastKwargs,
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    ProfileKwargs,
)
from notebook_accel.core.plugins import GradientAccumulationPlugin
from notebook_accel.core.runtime import Runtime, current
from notebook_accel.errors import ConfigError, NotAvailableError

PIECES = ((4, 1), (2, 3), (5, 0))  # labels that count, of two ranks' micro-batches


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


# ---- one process: fp16


def overflow(accelerator: Accelerator, model: nn.Module, optimizer: Any, *, too_large: bool) -> None:
    accelerator.backward(model(torch.full((2, 3), 1e30 if too_large else 1.0)).pow(2).mean())
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_overflows_is_left_out_and_schedules_wait(runtime: Runtime, fused: bool):
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(init_scale=1024.0)])
    model = nn.Linear(3, 1)
    optimizer = AdamW(model.parameters(), lr=0.1, fused=fused)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, LambdaLR(optimizer, lambda step: 0.5**step))
    seen = []
    for too_large in (False, True, False):
        before = model.weight.detach().clone()
        overflow(accelerator, model, optimizer, too_large=too_large)
        scheduler.step()
        moved = not torch.equal(before, model.weight)
        assert moved == (not too_large)
        assert optimizer.step_was_skipped == accelerator.optimizer_step_was_skipped == too_large
        seen.append(scheduler.last_epoch)
    assert seen == [1, 1, 2]
    assert accelerator.scaler is not None
    assert accelerator.scaler.get_scale() == 512


def test_clipping_sees_true_gradients_under_fp16(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="fp16")
    weight = nn.Parameter(torch.zeros(2))
    optimizer = accelerator.prepare(SGD([weight], lr=1.0))
    accelerator.backward((weight * torch.tensor([3.0, 4.0])).sum())
    assert accelerator.clip_grad_norm_([weight], 1.0).item() == pytest.approx(5.0)
    assert accelerator.clip_grad_norm_([weight], 10.0).item() == pytest.approx(1.0), "clipped already"
    optimizer.step()
    assert weight.tolist() == pytest.approx([-0.6, -0.8])


def test_unscaling_twice_and_for_one_of_two(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="fp16")
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    one, two = accelerator.prepare(SGD([first], lr=1.0), SGD([second], lr=1.0))
    accelerator.backward((2 * first + 3 * second).sum())
    accelerator.unscale_gradients(one)
    accelerator.unscale_gradients(one)
    assert first.grad.item() == 2
    assert second.grad.item() > 3
    accelerator.unscale_gradients()
    assert second.grad.item() == 3
    one.step()
    two.step()
    assert (first.item(), second.item()) == (-2, -3)


def test_gradients_that_are_thrown_away_are_not_taken_for_true_ones(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="fp16")
    weight = nn.Parameter(torch.zeros(1))
    optimizer = accelerator.prepare(SGD([weight], lr=1.0))
    accelerator.backward((3 * weight).sum())
    accelerator.clip_grad_value_(weight, 1.0)
    optimizer.zero_grad()  # without a step
    accelerator.backward((3 * weight).sum())
    optimizer.step()
    assert weight.item() == -3


def test_two_optimizers_step_with_one_factor(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="fp16", kwargs_handlers=[GradScalerKwargs(growth_interval=1)])
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    one, two = accelerator.prepare(SGD([first], lr=1.0), SGD([second], lr=1.0))
    accelerator.backward((first + second).sum())
    one.step()
    two.step()
    assert (first.item(), second.item()) == (-1, -1), "the factor grows after both"


def test_an_optimizer_without_gradients_steps_quietly(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="fp16")
    optimizer = accelerator.prepare(SGD([nn.Parameter(torch.zeros(1))], lr=1.0))
    optimizer.step()
    assert not optimizer.step_was_skipped


# ---- one process: sums over items


def test_sums_give_the_mean_over_all_items_of_a_window(runtime: Runtime):
    for precision in ("no", "fp16"):
        accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=3)
        weight = nn.Parameter(torch.zeros(1))
        holder = nn.ParameterList([weight])
        model, optimizer = accelerator.prepare(holder, SGD([weight], lr=1.0))
        for values in ([1.0, 2.0, 3.0], [], [10.0]):
            with accelerator.accumulate(model):
                accelerator.backward((weight * torch.tensor(values)).sum(), num_items=len(values))
                optimizer.step()
                optimizer.zero_grad()
        assert weight.item() == pytest.approx(-4.0)


def test_sums_need_no_accumulation_and_no_items(runtime: Runtime):
    accelerator = Accelerator()
    weight = nn.Parameter(torch.zeros(1))
    accelerator.prepare(nn.ParameterList([weight]))
    for values, mean in (([2.0, 4.0], 3.0), ([], 0.0), ([5.0], 5.0)):
        accelerator.backward((weight * torch.tensor(values)).sum(), num_items=torch.tensor(len(values)))
        assert weight.grad.item() == pytest.approx(mean)
        weight.grad = None


def test_sums_and_means_do_not_meet_in_a_window(runtime: Runtime):
    accelerator = Accelerator(gradient_accumulation_steps=2)
    weight = nn.Parameter(torch.zeros(1))
    model = accelerator.prepare(nn.ParameterList([weight]))
    with accelerator.accumulate(model):
        accelerator.backward(weight.sum(), num_items=1)
        with pytest.raises(ConfigError, match="num_items"):
            accelerator.backward(weight.sum(), num_items=1)
        with pytest.raises(ConfigError, match="num_items"):
            accelerator.backward(weight.sum())
    with accelerator.accumulate(model):
        accelerator.backward(weight.sum(), num_items=1)
    with accelerator.accumulate(model):
        accelerator.backward(weight.sum())
    for wrong in (-1, float("nan"), "3", True, torch.ones(2)):
        with accelerator.accumulate(model), pytest.raises(ConfigError, match="num_items"):
            accelerator.backward(weight.sum(), num_items=wrong)


def test_sums_want_to_know_the_model(runtime: Runtime):
    accelerator = Accelerator()
    model, _ = accelerator.prepare(net(), net())
    with pytest.raises(ConfigError, match="accumulate"):
        accelerator.backward(model(torch.ones(1, 3)).sum(), num_items=1)


# ---- one process: windows


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [(3, 3, 3), (2, 2)]),
        ({"weight_partial_window": False}, [(3, 3, 3), (3, 3)]),
        ({"sync_with_dataloader": False}, [(3, 3, 3), (3, 3, 3), (3, 3, 3), (3,)]),
    ],
)
def test_what_a_window_holds(runtime: Runtime, options: dict[str, bool], sizes: list[tuple[int, ...]]):
    plugin = GradientAccumulationPlugin(num_steps=3, **options)
    accelerator = Accelerator(gradient_accumulation_plugin=plugin)
    weight = nn.Parameter(torch.zeros(1))
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.ones(5)), batch_size=1))
    windows, current_window = [], []
    for _ in range(2):
        for (ones,) in loader:
            with accelerator.accumulate():
                weight.grad = None
                accelerator.backward((weight * ones).sum())
                current_window.append(round(1 / weight.grad.item()))
                if accelerator.sync_gradients:
                    windows.append(tuple(current_window))
                    current_window = []
    left = [tuple(current_window)] if current_window else []
    assert windows + left == (sizes if "sync_with_dataloader" in options else sizes * 2)


class Marked(torch.Tensor):
    """A loss whose class wants gradients of its own."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.backward:
            assert not (kwargs or {}).get("gradient"), "a plain gradient does not fit"
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_loss_of_a_class_of_its_own_is_divided():
    accelerator = Accelerator(gradient_accumulation_steps=2)
    weight = nn.Parameter(torch.ones(1))
    with accelerator.accumulate():
        accelerator.backward((weight * 3).sum().as_subclass(Marked))
    assert weight.grad == 1.5


def test_a_parameter_that_is_the_loss_keeps_a_gradient_of_its_own():
    accelerator = Accelerator(gradient_accumulation_steps=2)
    weight = nn.Parameter(torch.ones(1))
    for _ in range(2):
        weight.grad = None
        for _ in range(2):
            with accelerator.accumulate():
                accelerator.backward(weight.squeeze())
        assert weight.grad == 1.0
        weight.grad.mul_(7.0)


def test_the_number_of_steps_can_change(runtime: Runtime):
    accelerator = Accelerator(gradient_accumulation_steps=4)
    accelerator.gradient_accumulation_steps = 2
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.ones(5)), batch_size=1))
    steps = []
    for _ in loader:
        with accelerator.accumulate():
            steps.append(accelerator.sync_gradients)
    assert steps == [False, True, False, True, True]
    accelerator.gradient_accumulation_steps = 4
    assert accelerator.gradient_accumulation_steps == 4
    with pytest.raises(ConfigError, match="before prepare"):
        accelerator.gradient_accumulation_steps = 5
    with pytest.raises(ConfigError, match="gradient_accumulation_steps"):
        accelerator.gradient_accumulation_steps = 0


def test_schedulers_that_do_not_follow_the_optimizer(runtime: Runtime):
    accelerator = Accelerator(step_scheduler_with_optimizer=False, gradient_accumulation_steps=2)
    optimizer = SGD(net().parameters(), lr=1.0)
    scheduler = accelerator.prepare(OneCycleLR(optimizer, max_lr=1.0, total_steps=5))
    optimizer.step()
    for _ in range(4):
        with accelerator.accumulate():
            scheduler.step()
    assert scheduler.last_epoch == 4


# ---- one process: what is refused


def test_wrong_losses(runtime: Runtime):
    accelerator = Accelerator()
    model = accelerator.prepare(net())
    with pytest.raises(ConfigError, match=r"rank 0: .* shape \(2, 1\)"):
        accelerator.backward(model(torch.ones(2, 3)))
    accelerator.backward(model(torch.ones(2, 3)), gradient=torch.ones(2, 1))
    with torch.no_grad(), pytest.raises(ConfigError, match="no trainable parameter"):
        accelerator.backward(model(torch.ones(2, 3)).sum())


def test_backward_outside_of_accumulate(runtime: Runtime):
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = accelerator.prepare(net())
    with pytest.raises(ConfigError, match=r"outside accumulate.*2 gradient_accumulation_steps"):
        accelerator.backward(model(torch.ones(2, 3)).sum())
    with accelerator.accumulate(model):
        accelerator.backward(model(torch.ones(2, 3)).sum())
    with pytest.raises(ConfigError, match="outside accumulate"):
        accelerator.backward(model(torch.ones(2, 3)).sum())


def test_clipping_before_backward(runtime: Runtime):
    accelerator = Accelerator()
    model = accelerator.prepare(net())
    for clip in (accelerator.clip_grad_norm_, accelerator.clip_grad_value_):
        with pytest.raises(ConfigError, match=r"none of the 4 parameters has a gradient"):
            clip(model.parameters(), 1.0)


@pytest.mark.parametrize("options", [{"mixed_precision": "fp16"}, {"gradient_accumulation_steps": 2}])
def test_an_optimizer_that_was_not_prepared(runtime: Runtime, options: dict[str, Any]):
    accelerator = Accelerator(**options)
    model = net()
    optimizer, stranger = SGD(model.parameters(), lr=1.0), SGD(net().parameters(), lr=1.0)
    model = accelerator.prepare(model)
    with accelerator.accumulate(model):
        accelerator.backward(model(torch.ones(2, 3)).sum())
        with pytest.raises(ConfigError, match="SGD that was not prepared"):
            optimizer.step()
        stranger.step()
        accelerator.prepare(optimizer).step()
    del accelerator
    gc.collect()
    optimizer.step()


def test_handlers_that_nobody_reads(runtime: Runtime):
    with pytest.raises(ConfigError, match="two AutocastKwargs"):
        Accelerator(kwargs_handlers=[AutocastKwargs(), AutocastKwargs(enabled=False)])
    with pytest.raises(ConfigError, match="no handler"):
        Accelerator(kwargs_handlers=["find_unused_parameters"])
    recipe = type("FP8RecipeKwargs", (), {})()
    with pytest.raises(NotAvailableError, match="fp8"):
        Accelerator(kwargs_handlers=[recipe])
    with pytest.raises(ConfigError, match="init_method"):
        Accelerator(kwargs_handlers=[InitProcessGroupKwargs(init_method="tcp://host:1")])
    with pytest.raises(ConfigError, match="comm_wrapper"):
        hooks = DistributedDataParallelKwargs(comm_wrapper=DDPCommunicationHookType.FP16)
        hooks.register_comm_hook(net())


def test_handlers_say_what_differs():
    assert AutocastKwargs().to_kwargs() == {}
    assert GradScalerKwargs(init_scale=2.0).to_kwargs() == {"init_scale": 2.0}
    assert ProfileKwargs(activities=["cpu"]).to_kwargs() == {"activities": ["cpu"]}
    ddp = DistributedDataParallelKwargs(static_graph=True, comm_hook=DDPCommunicationHookType.BF16)
    assert ddp.to_kwargs() == {"static_graph": True}


def test_autocast_can_be_switched_off(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="bf16")
    one = torch.ones(1, 1)
    with accelerator.autocast():
        assert (one @ one).dtype == torch.bfloat16
        with accelerator.autocast(AutocastKwargs(enabled=False)):
            assert (one @ one).dtype == torch.float32


# ---- one process: compiling, and memory


def test_compiled_models(runtime: Runtime):
    accelerator = Accelerator(dynamo_backend="eager")
    model = net()
    compiled = accelerator.prepare(model)
    assert compiled is not model
    assert torch.equal(compiled(torch.ones(1, 3)), model(torch.ones(1, 3)))
    assert accelerator.unwrap_model(compiled) is model
    assert accelerator.prepare(compiled) is compiled
    with pytest.raises(ConfigError, match="prepared before"):
        accelerator.prepare(model)
    own = torch.compile(net(), backend="eager")
    plain = Accelerator()
    prepared = plain.prepare(own)
    assert prepared is own
    assert plain.unwrap_model(prepared) is own
    assert plain.unwrap_model(prepared, keep_torch_compile=False) is own._orig_mod
    torch._dynamo.reset()


def test_names_of_compilers(runtime: Runtime):
    assert TorchDynamoPlugin(backend="aot_eager").backend is DynamoBackend.AOT_EAGER
    for wrong in ({"dynamo_backend": "fast"}, {"dynamo_plugin": "eager"}):
        with pytest.raises(ConfigError, match="dynamo"):
            Accelerator(**wrong)
    with pytest.raises(ConfigError, match="once"):
        Accelerator(dynamo_backend="eager", dynamo_plugin=TorchDynamoPlugin())
    with pytest.raises(NotAvailableError):
        TorchDynamoPlugin(use_regional_compilation=True)


def test_no_copy_is_made_of_model_or_batch(runtime: Runtime):
    accelerator = Accelerator()
    model = net()
    places = [parameter.data_ptr() for parameter in model.parameters()]
    data = torch.ones(4, 3)
    prepared = accelerator.prepare(model)
    assert [parameter.data_ptr() for parameter in prepared.parameters()] == places
    whole = accelerator.prepare(DataLoader(range(1), batch_size=1, collate_fn=lambda _: data))
    assert next(iter(whole)).data_ptr() == data.data_ptr()


def test_letting_go_of_everything(runtime: Runtime):
    accelerator = Accelerator()
    model = net()
    prepared = accelerator.prepare(model, SGD(model.parameters(), lr=1.0), DataLoader([1]))
    assert accelerator.free_memory(*prepared) == [None] * 3
    assert [len(things) for things in vars(accelerator._kit.prepared).values()] == [0] * 5
    accelerator.prepare(SGD(model.parameters(), lr=1.0))
    assert accelerator.clear() == []


# ---- two ranks: called by test_on_two_ranks.py


def sums_give_the_mean_over_all_items_of_all_ranks() -> None:
    generator = torch.Generator().manual_seed(3)
    pieces = [
        [(torch.randn(6, 3, generator=generator), torch.randint(0, 4, (6,), generator=generator)) for _ in range(2)]
        for _ in PIECES
    ]
    for piece, counts in zip(pieces, PIECES, strict=True):
        for (_, labels), count in zip(piece, counts, strict=True):
            labels[count:] = -100
    rank = current().world.rank
    for precision in ("no", "fp16"):
        torch.manual_seed(0)
        reference, model = nn.Linear(3, 4), nn.Linear(3, 4)
        model.load_state_dict(reference.state_dict())
        x, y = (torch.cat(column) for column in zip(*itertools.chain(*pieces), strict=True))
        cross_entropy(reference(x), y).backward()
        accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=len(PIECES))
        prepared, optimizer = accelerator.prepare(model, SGD(model.parameters(), lr=1.0))
        for piece in pieces:
            x, y = piece[rank]
            with accelerator.accumulate(prepared):
                loss = cross_entropy(prepared(x), y, reduction="sum")
                accelerator.backward(loss, num_items=(y != -100).sum())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(prepared.parameters(), 1e9)
                    tolerance = 1e-6 if precision == "no" else 2e-3
                    assert torch.allclose(model.weight.grad, reference.weight.grad, atol=tolerance, rtol=0)
                optimizer.step()
                optimizer.zero_grad()


def all_ranks_leave_out_the_same_step() -> None:
    accelerator = Accelerator(mixed_precision="fp16")
    model = nn.Linear(3, 1)
    prepared, optimizer = accelerator.prepare(model, SGD(model.parameters(), lr=0.1))
    too_large = current().world.rank == 1
    accelerator.backward(prepared(torch.full((2, 3), 1e30 if too_large else 1.0)).pow(2).mean())
    optimizer.step()
    assert accelerator.optimizer_step_was_skipped


def gradients_travel_compressed() -> None:
    kinds = DDPCommunicationHookType
    rank = current().world.rank
    for hook, wrapper in ((kinds.FP16, kinds.NO), (kinds.POWER_SGD, kinds.FP16)):
        options = {"matrix_approximation_rank": 1, "start_powerSGD_iter": 2} if hook is kinds.POWER_SGD else None
        handler = DistributedDataParallelKwargs(comm_hook=hook, comm_wrapper=wrapper, comm_state_option=options)
        accelerator = Accelerator(kwargs_handlers=[handler])
        weight = nn.Linear(1, 1, bias=False)
        model = accelerator.prepare(weight)
        accelerator.backward(model(torch.tensor([[1.0 + rank]])).sum())
        assert weight.weight.grad.item() == pytest.approx(1.5, rel=1e-2)
    only_between_gpus = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(comm_hook=kinds.BF16)])
    with pytest.raises(NotAvailableError, match="NCCL"):
        only_between_gpus.prepare(nn.Linear(1, 1))


def unused_parameters_are_found() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(1, 1), nn.Linear(1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    handler = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
    accelerator = Accelerator(kwargs_handlers=[handler])
    model = accelerator.prepare(Half())
    for _ in range(3):
        accelerator.backward(model(torch.ones(1, 1)).sum())


def gradients_are_exchanged_after_all() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    inner = nn.Linear(1, 1, bias=False)
    model = accelerator.prepare(inner)
    with accelerator.no_sync(model):
        first, second = (model(torch.tensor([[1.0 + rank]])).sum() for _ in range(2))
        accelerator.backward(first)
        assert inner.weight.grad.item() == pytest.approx(1 + rank)
        with accelerator.trigger_sync_in_backward(model):
            accelerator.backward(second)
    assert inner.weight.grad.item() == pytest.approx(3.0)


def a_raw_model_is_refused_a_second_time() -> None:
    accelerator = Accelerator()
    model = net()
    prepared = accelerator.prepare(model)
    with pytest.raises(ConfigError, match=r"rank \d: this Sequential was prepared before"):
        accelerator.prepare(model)
    assert accelerator.prepare(prepared) is prepared
    assert accelerator.prepare_model(net(), evaluation_mode=True).__class__ is nn.Sequential


def compiled_models_exchange_gradients() -> None:
    accelerator = Accelerator(dynamo_backend="eager")
    model = net()
    prepared = accelerator.prepare(model)
    x = torch.full((2, 3), 1.0 + accelerator.process_index)
    accelerator.backward(mse_loss(prepared(x), torch.zeros(2, 1)))
    gradients = accelerator.gather(model[0].weight.grad[None])
    assert torch.equal(gradients[0], gradients[1])
    assert accelerator.unwrap_model(prepared) is model
    torch._dynamo.reset()


def how_ranks_are_joined_is_settled_once() -> None:
    group = InitProcessGroupKwargs(backend="gloo", timeout=timedelta(seconds=20))
    with pytest.raises(ConfigError, match="joined already"):
        Accelerator(kwargs_handlers=[group])
    assert Accelerator(kwargs_handlers=[InitProcessGroupKwargs()]).num_processes == 2
