"""What ranks on XLA devices do in the tests; each is launched as one function, so that torch_xla is loaded once."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from notebook_accel import Accelerator, DistributedType, load_checkpoint_in_model, set_seed
from notebook_accel.core.files.objects import read_objects
from notebook_accel.core.tree import leaves


class TiedModel(nn.Module):
    """An embedding and a head of one weight."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids))


def data(rows: int = 40) -> TensorDataset:
    inputs = torch.randn(rows, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def train(precision: str = "no", accumulate: int = 1, epochs: int = 2) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The quick start's loop, with clipping and accumulation."""
    set_seed(3)
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=accumulate)
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
    loader = DataLoader(data(), batch_size=8, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    losses = []
    for _ in range(epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = ((model(inputs) - targets) ** 2).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
    gathered = accelerator.gather_for_metrics(torch.stack(losses))
    state = {name: value.cpu() for name, value in accelerator.unwrap_model(model).state_dict().items()}
    return gathered.cpu().tolist(), state


def tied_weights() -> dict[str, Any]:
    """Weights tied before prepare, with a stepped optimizer too; and tied after it."""
    accelerator = Accelerator()
    ids = torch.tensor([1, 2], device=accelerator.device)
    found: dict[str, Any] = {}
    for name in ("fresh", "stepped", "held", "after"):
        model = TiedModel(tie=name != "after")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        if name == "stepped":
            model(torch.tensor([1])).sum().backward()
            optimizer.step()
        loss = model(torch.tensor([1])).sum() if name == "held" else None  # a graph that holds the old weights
        model, prepared = accelerator.prepare(model, optimizer)
        if name == "after":
            model.head.weight = model.embedding.weight
        before = model.head.weight.detach().cpu().clone()
        model(ids).sum().backward()
        prepared.step()
        changed = bool((model.head.weight.detach().cpu() != before).any())
        held = {id(p) for group in prepared.param_groups for p in group["params"]}
        same = model.head.weight is model.embedding.weight
        found[name] = (same, id(model.head.weight) in held, changed, len(list(model.parameters())))
        del loss
    return found


def moved_by_hand() -> list[str]:
    """Give what is said of a model whose tie a move outside of prepare has undone."""
    from types import SimpleNamespace

    accelerator = Accelerator(device_placement=False)
    model: Any = TiedModel()
    model.config = SimpleNamespace(tie_word_embeddings=True)
    model.get_input_embeddings, model.get_output_embeddings = lambda: model.embedding, lambda: model.head
    model.to(accelerator.device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        accelerator.prepare(model)
    return [str(warning.message) for warning in said]


def built_before_the_move() -> str:
    accelerator = Accelerator(device_placement=False)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.to(accelerator.device)
    try:
        accelerator.prepare(model, optimizer)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def fp16() -> str:
    try:
        Accelerator(mixed_precision="fp16")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def random_numbers() -> tuple[list[float], list[float], list[float]]:
    accelerator = Accelerator()
    set_seed(11)
    first = torch.rand(3, device=accelerator.device).cpu().tolist()
    state = accelerator._backend.rng_state()
    middle = torch.rand(3, device=accelerator.device).cpu().tolist()
    accelerator._backend.set_rng_state(state)
    again = torch.rand(3, device=accelerator.device).cpu().tolist()
    set_seed(11)
    assert torch.rand(3, device=accelerator.device).cpu().tolist() == first
    return first, middle, again


def collectives() -> dict[str, Any]:
    accelerator = Accelerator()
    here = torch.arange(3, device=accelerator.device) + accelerator.process_index
    backend = accelerator._backend
    return {
        "gather": accelerator.gather(here).cpu().tolist(),
        "sum": accelerator.reduce(here).cpu().tolist(),
        "mean": accelerator.reduce(here, "mean").cpu().tolist(),
        "max": backend.all_reduce(here, "max").cpu().tolist(),
        "host": accelerator.gather(torch.tensor([accelerator.process_index])).tolist(),
        "kind": (accelerator.distributed_type == DistributedType.TPU, accelerator.distributed_type.name),
        "objects": backend.gather_object(accelerator.process_index),
        "source": backend.broadcast_object(accelerator.process_index, src=accelerator.num_processes - 1),
        "padded": accelerator.pad_across_processes(here[: 1 + accelerator.process_index % 3]).cpu().tolist(),
        "device": accelerator.device.type,
    }


def reduction_in_the_program() -> tuple[float, int]:
    """Let XLA average the gradients of one replica, which torch_xla leaves out unless it is told not to."""
    import os

    os.environ["XLA_ALWAYS_ALLREDUCE"] = "1"
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(2, 1, bias=False))
    accelerator._backend.average(model.parameters())
    model(torch.ones(3, 2, device=accelerator.device)).sum().backward()
    calls = sys.modules["torch_xla.core.xla_model"].get_stablehlo([model.weight.grad]).count("all_reduce")
    del os.environ["XLA_ALWAYS_ALLREDUCE"]
    return model.weight.grad.sum().item(), calls


def checkpoints(folder: str) -> dict[str, Any]:
    """Save, train on, go back, and train on equally; what was saved is read where no XLA device is needed."""
    import torch_xla

    accelerator = Accelerator()
    model = small_model()
    model = accelerator.prepare(model)
    optimizer = accelerator.prepare(torch.optim.AdamW(model.parameters(), lr=0.1))

    def step() -> list[float]:
        inputs = torch.rand(4, 4, device=accelerator.device)  # drawn by the device
        accelerator.backward(model(inputs).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        torch_xla.sync()
        return [float(value.sum().cpu()) for value in model.parameters()]

    step()
    found: dict[str, Any] = {}
    for block in (True, False):
        path = accelerator.save_state(f"{folder}/state", block=block)
        accelerator.wait_for_checkpoint()
        first = step()
        accelerator.load_state(path)
        found[f"goes on equally, block={block}"] = step() == first
    files = {name: read_objects(path / name) for name in ("optimizer.bin", "random_states_0.pkl")}
    tensors = [leaf for data in files.values() for _, leaf in leaves(data) if isinstance(leaf, torch.Tensor)]
    found["on the CPU"] = all(tensor.device.type == "cpu" for tensor in tensors)
    accelerator.save_model(model, f"{folder}/model")
    fresh = small_model()
    load_checkpoint_in_model(fresh, f"{folder}/model", strict=True)
    pairs = zip(fresh.parameters(), model.parameters(), strict=True)
    found["weights"] = all(torch.equal(one, other.cpu()) for one, other in pairs)
    return found


class BadRow(Dataset):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        if index == 5:
            raise KeyError("bad row")
        return index


def loaders() -> tuple[list[int], str, int]:
    """What is read ahead: a loop that is left early, a data set that fails."""
    import threading

    accelerator = Accelerator()
    rows: list[int] = []
    for batch in accelerator.prepare(DataLoader(list(range(100)), batch_size=2)):
        rows += batch.tolist()
        break
    raised = "nothing"
    try:
        for _ in accelerator.prepare(DataLoader(BadRow(), batch_size=2)):
            pass
    except KeyError as error:
        raised = repr(error)
    return rows, raised, threading.active_count()


def watched(rows: int, accumulate: int = 1) -> list[str]:
    """Give what the watch has said about a loop whose last batch may be short."""
    accelerator = Accelerator(gradient_accumulation_steps=accumulate)
    model = small_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    loader = accelerator.prepare(DataLoader(data(rows), batch_size=8))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            for inputs, targets in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(((model(inputs) - targets) ** 2).mean())
                    optimizer.step()
                    optimizer.zero_grad()
    return [f"{warning.lineno} {warning.message}" for warning in said]


def counters() -> dict[str, int]:
    """Compute something and give what torch_xla counted about its cache of programs."""
    import torch_xla
    from torch_xla.debug import metrics

    accelerator = Accelerator()
    (torch.ones(3, 3, device=accelerator.device) @ torch.full((3, 3), 2.0, device=accelerator.device)).sum().item()
    torch_xla.sync()
    return {name: metrics.counter_value(name) for name in metrics.counter_names() if name.startswith("Persistent")}


def logging_inside_of_steps(steps: int) -> int:
    """Log a sum that goes on changing inside of each step; give the number of programs that were run."""
    import torch_xla.core.xla_model as xm
    from torch_xla.debug import metrics

    def executed() -> int:
        xm.wait_device_ops()
        return metrics.metric_data("ExecuteTime")[0]

    accelerator = Accelerator()
    model = small_model()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.0))
    inputs = torch.ones(8, 4, device=accelerator.device)
    total = torch.zeros((), device=accelerator.device)
    (inputs.sum() + total).item()
    before = executed()
    for step in range(steps):
        accelerator.backward(model(inputs).square().mean())
        total += 1
        accelerator.log({"total": total, "nested": {"both": [total, step]}, "step": step}, step=step)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.log({"last": "text"})
    return executed() - before


def compiling(iterations: int) -> None:
    """Compute in one call of native code, as XLA compiles."""
    import hashlib

    Accelerator()
    hashlib.pbkdf2_hmac("sha256", b"", b"", iterations)


def waiting_for_nobody() -> None:
    import threading

    Accelerator()
    threading.Event().wait()


def failing_after_a_log() -> None:
    accelerator = Accelerator()
    accelerator.log({"loss": torch.ones((), device=accelerator.device) + 1})
    raise ValueError("mine")


def everything(folder: str) -> dict[str, Any]:
    return {
        "train": train(),
        "bf16": train("bf16"),
        "accumulate": train(accumulate=2),
        "tied": tied_weights(),
        "by hand": moved_by_hand(),
        "before": built_before_the_move(),
        "fp16": fp16(),
        "random": random_numbers(),
        "collectives": collectives(),
        "reduction": reduction_in_the_program(),
        "checkpoints": checkpoints(folder),
        "loaders": loaders(),
        "accumulated": watched(64, accumulate=2),
        "even": watched(64),
        "short": watched(61),
    }
