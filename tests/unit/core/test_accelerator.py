from __future__ import annotations

import tempfile
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from notebook_accel import refused
from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.loader import ShardedLoader
from notebook_accel.core.optimizer import PreparedOptimizer
from notebook_accel.core.runtime import Runtime, activate, current
from notebook_accel.core.scheduler import PreparedScheduler
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.world import World

SAMPLES, BATCH = 48, 4


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def data(samples: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(samples, 3, generator=generator), torch.randn(samples, 1, generator=generator))


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-6) -> bool:
    return all(torch.allclose(a, b, atol=tolerance, rtol=0) for a, b in zip(first, second, strict=True))


def train_plain(batches: list[Any], micro: int = 1, epochs: int = 2) -> list[Tensor]:
    """What a loop without any helper makes of global batches, in windows of ``micro``."""
    model = net()
    optimizer = AdamW(model.parameters(), lr=0.05)
    scheduler = LambdaLR(optimizer, lambda step: 0.9**step)
    for _ in range(epochs):
        for start in range(0, len(batches), micro):
            window = batches[start : start + micro]
            for x, y in window:
                (mse_loss(model(x), y) / len(window)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return weights(model)


def train_prepared(
    accelerator: Accelerator, loader: DataLoader[Any], epochs: int = 2, *, scheduler_steps: int = 1
) -> list[Tensor]:
    model = net()
    optimizer = AdamW(model.parameters(), lr=0.05)
    # The schedule of train_plain, which steps once where a prepared scheduler steps for every rank's batch.
    scheduler = LambdaLR(optimizer, lambda step: 0.9 ** (step / scheduler_steps))
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(mse_loss(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return weights(accelerator.unwrap_model(model))


# ---- one process


def test_what_a_rank_is(runtime: Runtime):
    accelerator = Accelerator()
    assert accelerator.device == torch.device("cpu")
    assert (accelerator.num_processes, accelerator.process_index, accelerator.local_process_index) == (1, 0, 0)
    assert accelerator.is_main_process
    assert accelerator.is_local_main_process
    assert accelerator.is_last_process
    assert (accelerator.gradient_accumulation_steps, accelerator.sync_gradients) == (1, True)


def test_order_and_number_are_the_callers(runtime: Runtime):
    accelerator = Accelerator()
    model = net()
    optimizer = SGD(model.parameters(), lr=1.0)
    kinds_of_things = (nn.Module, PreparedOptimizer, PreparedScheduler, ShardedLoader, str)
    for kinds in permutations(kinds_of_things, 3):
        optimizer = SGD(model.parameters(), lr=1.0)
        things = {nn.Module: model, PreparedOptimizer: optimizer, PreparedScheduler: LambdaLR(optimizer, lambda _: 1.0)}
        things |= {ShardedLoader: DataLoader(data()), str: "text"}
        prepared = accelerator.prepare(*(things[kind] for kind in kinds))
        assert isinstance(prepared, tuple)
        assert all(isinstance(thing, kind) for thing, kind in zip(prepared, kinds, strict=True))
    assert accelerator.prepare(model) is model
    assert accelerator.prepare() == ()
    more = accelerator.prepare(model, net(), *(SGD(model.parameters(), lr=1.0) for _ in range(2)))
    assert len(more) == 4


def test_parts_of_prepare(runtime: Runtime):
    accelerator = Accelerator()
    model = net()
    optimizer = accelerator.prepare_optimizer(SGD(model.parameters(), lr=1.0))
    assert accelerator.prepare_model(model) is model
    assert isinstance(optimizer, PreparedOptimizer)
    assert isinstance(accelerator.prepare_scheduler(LambdaLR(optimizer, lambda _: 1.0)), PreparedScheduler)
    assert len(accelerator.prepare_data_loader(DataLoader(data(), batch_size=BATCH))) == SAMPLES // BATCH


@pytest.mark.parametrize(("micro", "samples"), [(1, 48), (3, 48), (5, 48), (3, 10)])
def test_alone_it_trains_as_a_plain_loop(runtime: Runtime, micro: int, samples: int):
    loader = DataLoader(data(samples), batch_size=BATCH)
    trained = train_prepared(Accelerator(gradient_accumulation_steps=micro), loader)
    assert same(trained, train_plain(list(loader), micro), tolerance=0 if micro == 1 else 1e-6)


def test_precision_is_the_runs_unless_it_is_given():
    with activate(Runtime(World(), "bf16")):
        assert Accelerator().mixed_precision == "bf16"
        assert Accelerator(mixed_precision="no").mixed_precision == "no"


def test_bf16_reaches_the_model_and_the_block(runtime: Runtime):
    accelerator = Accelerator(mixed_precision="bf16")
    seen = []
    model = net()
    model[0].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    prepared = accelerator.prepare(model)
    assert prepared(torch.ones(1, 3)).dtype == torch.float32
    assert seen == [torch.bfloat16]
    with accelerator.autocast():
        assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16
    assert accelerator.unwrap_model(prepared) is model
    prepared(torch.ones(1, 3))
    assert seen[-1] == torch.bfloat16, "looking at the model must not change how it trains"
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)(torch.ones(1, 3))
    assert seen[-1] == torch.float32


def test_without_placement_nothing_moves(runtime: Runtime, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime.backend, "device", torch.device("meta"))
    model, loader = Accelerator(device_placement=False).prepare(net(), DataLoader(data(), batch_size=BATCH))
    x, _ = next(iter(loader))
    assert {x.device.type, model[0].weight.device.type} == {"cpu"}
    model, loader = Accelerator().prepare(net(), DataLoader(data(), batch_size=BATCH))
    x, _ = next(iter(loader))
    assert {x.device.type, model[0].weight.device.type} == {"meta"}


def test_clipping(runtime: Runtime):
    accelerator = Accelerator()
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert accelerator.clip_grad_norm_([weight], 1.0).item() == 5
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])
    assert accelerator.clip_grad_norm_(weight, 1.0, norm_type=float("inf")).item() == pytest.approx(0.8)
    accelerator.clip_grad_value_([weight], 0.7)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.7])


def test_backward_takes_what_torch_takes(runtime: Runtime):
    x = torch.ones(1, requires_grad=True)
    loss = (2 * x).sum()
    Accelerator().backward(loss, retain_graph=True)
    loss.backward()
    assert x.grad.item() == 4


def test_wrong_arguments_are_refused(runtime: Runtime):
    for steps in (0, -1, 1.5, True, "2"):
        with pytest.raises(ConfigError, match="gradient_accumulation_steps"):
            Accelerator(gradient_accumulation_steps=steps)
    with pytest.raises(NotAvailableError, match="fp8"):
        Accelerator(mixed_precision="fp8")
    with pytest.raises(ConfigError, match="'half'"):
        Accelerator(mixed_precision="half")
    with pytest.raises(TypeError, match="did you mean 'step_scheduler_with_optimizer'"):
        Accelerator(step_with_optimizer=False)
    with pytest.raises(NotAvailableError, match="DeepSpeed"):
        Accelerator(deepspeed_plugin=object())


def test_a_rank_knows_how_often_its_run_was_started_before():
    assert Accelerator(cpu=True).attempt == 0
    with activate(Runtime(World(restart_count=2, max_restarts=3))):
        assert Accelerator().attempt == 2


def test_main_process_does_what_only_it_does(capsys: pytest.CaptureFixture[str]):
    for rank in (0, 1):
        with activate(Runtime(World(rank=0, local_rank=rank))):
            accelerator = Accelerator()
            accelerator.print("from", rank, sep=" local ")
    assert capsys.readouterr().out == "from local 0\n"


def test_what_another_accelerator_prepared_is_refused(runtime: Runtime):
    first, second = Accelerator(mixed_precision="bf16"), Accelerator(gradient_accumulation_steps=2)
    model, optimizer = net(), None
    optimizer = SGD(model.parameters(), lr=0.1)
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    model, optimizer, schedule = first.prepare(model, optimizer, schedule)
    for thing, kind in ((optimizer, "SGD"), (schedule, "LambdaLR")):
        assert first.prepare(thing) is thing
        with pytest.raises(ConfigError, match=f"this {kind} was prepared by another Accelerator"):
            second.prepare(thing)
    with pytest.raises(ConfigError, match="Sequential computes in bf16.* mixed_precision='no'"):
        second.prepare(model)
    assert second.prepare(first.unwrap_model(model, keep_fp32_wrapper=False)) is not None
    with second.accumulate(model):
        second.backward(model(torch.ones(1, 3)).sum())
        with pytest.raises(ConfigError, match="a SGD that was not prepared steps on a prepared model"):
            optimizer.step()


@pytest.mark.parametrize("loss", [0.5, {"loss": torch.ones(())}, None])
def test_a_loss_that_is_no_tensor_is_refused(loss: Any, runtime: Runtime):
    with pytest.raises(ConfigError, match=f"backward\\(\\) got a {type(loss).__name__}, which is no tensor"):
        Accelerator().backward(loss)


def test_attributes_of_other_engines_are_refused_by_name() -> None:
    with activate(Runtime(World())):
        accelerator = Accelerator()
    for name in refused.ATTRIBUTES:
        with pytest.raises(NotAvailableError, match=f"Accelerator.{name} is for .* not built here"):
            getattr(accelerator, name)
        assert not hasattr(accelerator, name)
    with pytest.raises(AttributeError, match="no attribute 'no_such_verb'"):
        _ = accelerator.no_such_verb


# ---- two ranks: called by test_on_two_ranks.py


def global_batches(loader: DataLoader[Any], ranks: int = 2) -> list[Any]:
    """What two ranks see together in one step."""
    batches = list(loader)
    steps = [batches[start : start + ranks] for start in range(0, len(batches), ranks)]
    return [tuple(torch.cat(column) for column in zip(*step, strict=True)) for step in steps]


def two_ranks_train_as_one_process_on_all_samples() -> None:
    loader = DataLoader(data(), batch_size=BATCH)
    for micro in (1, 3, 4):  # 6 steps: windows of 3 are full, one of 4 is followed by one of 2
        trained = train_prepared(Accelerator(gradient_accumulation_steps=micro), loader, scheduler_steps=2)
        assert same(trained, train_plain(global_batches(loader), micro)), micro
        assert not same(trained, weights(net()), tolerance=1e-2), "nothing was trained"
        others = current().backend.gather_object(trained)
        assert same(others[0], others[1], tolerance=0)
    whole = DataLoader(data(), batch_size=2 * BATCH)
    assert same(train_prepared(Accelerator(split_batches=True), whole), train_plain(list(whole)))


def schedule_goes_on_by_ranks_unless_batches_are_split() -> None:
    for split, steps in ((False, 2), (True, 1)):
        optimizer = SGD(net().parameters(), lr=1.0)
        scheduler = Accelerator(split_batches=split).prepare(LambdaLR(optimizer, lambda step: 0.5**step))
        optimizer.step()
        scheduler.step()
        assert scheduler.last_epoch == steps


def gradients_are_exchanged_on_the_last_micro_batch_only() -> None:
    accelerator = Accelerator(gradient_accumulation_steps=2)
    rank = accelerator.process_index
    inner = nn.Linear(1, 1, bias=False)
    model = accelerator.prepare(inner)
    assert isinstance(model, DistributedDataParallel)
    x = torch.tensor([[1.0 + rank]])
    with accelerator.accumulate(model):
        accelerator.backward(model(x).sum())
    assert not accelerator.sync_gradients
    assert inner.weight.grad.item() == pytest.approx((1 + rank) / 2)
    with accelerator.accumulate(model):
        accelerator.backward(model(x).sum())
    assert accelerator.sync_gradients
    assert inner.weight.grad.item() == pytest.approx(1.5)


def models_are_wrapped_where_they_train() -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    model, frozen = net(), net().requires_grad_(requires_grad=False)
    prepared, as_is = accelerator.prepare(model, frozen)
    assert isinstance(prepared, DistributedDataParallel)
    assert as_is is frozen
    assert prepared(torch.ones(1, 3)).dtype == torch.float32
    assert accelerator.unwrap_model(prepared) is model
    assert accelerator.prepare(prepared) is prepared
    accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert "forward" not in vars(model)


def fail_on_main_process_first(accelerator: Accelerator) -> None:
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            raise KeyError


def main_process_comes_first() -> None:
    accelerator = Accelerator()
    backend = current().backend
    with tempfile.TemporaryDirectory() as own:
        written = Path(backend.broadcast_object(own)) / "written"
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                written.write_bytes(b"x" * 2**25)  # takes longer than asking for its size
            assert written.stat().st_size == 2**25
        with pytest.raises(KeyError) if accelerator.is_main_process else nullcontext():
            fail_on_main_process_first(accelerator)
        accelerator.wait_for_everyone()
    assert accelerator.on_main_process(lambda: "main")() == ("main" if accelerator.is_main_process else None)
    assert accelerator.is_last_process == (accelerator.process_index == 1)
    accelerator.wait_for_everyone()


def verbs_reach_their_modules() -> None:
    accelerator = Accelerator()
    rank = accelerator.process_index
    assert accelerator.gather(torch.tensor([rank])).tolist() == [0, 1]
    assert accelerator.reduce(torch.tensor(rank)).item() == 1
    assert accelerator.reduce(torch.tensor(rank), "mean").item() == 0.5
    assert len(accelerator.pad_across_processes(torch.ones(1 + rank))) == 2
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(5)), batch_size=4))
    assert [accelerator.gather_for_metrics(rows).tolist() for (rows,) in loader] == [list(range(5))]
    assert accelerator.gather_for_metrics(["a"], use_gather_object=True) == ["a", "a"]


def another_accelerator_knows_the_padding() -> None:
    first, second = Accelerator(), Accelerator()
    loader = first.prepare(DataLoader(TensorDataset(torch.arange(9)), batch_size=2))
    seen = [number for (batch,) in loader for number in second.gather_for_metrics(batch).tolist()]
    assert sorted(seen) == list(range(9))
    assert second.gradient_state.end_of_dataloader is False
