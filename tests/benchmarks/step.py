"""What the wrapped training step costs beside the same loop in plain PyTorch, Hugging Face Accelerate and Fabric.

    python tests/benchmarks/step.py            one process, then two ranks; prints medians and ratios
    python tests/benchmarks/step.py --large    a 6-layer transformer in bf16, on a GPU where there is one

The loops take turns in random order, in one process; an interval is that of the median, by bootstrap.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from notebook_accel import Accelerator as Ours  # noqa: E402 - after the path to it
from notebook_accel.core.collectives import gather  # noqa: E402 - the same
from notebook_accel.core.exchange import Exchange  # noqa: E402 - the same
from notebook_accel.core.runtime import current  # noqa: E402 - the same
from tests.benchmarks.alternating import Block, alternate, report  # noqa: E402 - the same


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(10, 1)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


X, Y = torch.randn(8, 10), torch.randn(8, 1)


def raw_block(model: nn.Module, optimizer: torch.optim.Optimizer, accumulated: int) -> Block:
    ddp = isinstance(model, nn.parallel.DistributedDataParallel)

    def block(steps: int) -> None:
        for step in range(steps):
            last = (step + 1) % accumulated == 0
            if ddp:
                model.require_backward_grad_sync = last
            loss = mse_loss(model(X), Y)
            (loss if accumulated == 1 else loss / accumulated).backward()
            if last:
                optimizer.step()
                optimizer.zero_grad()

    return block


def accelerator_block(kind: Any, accumulated: int) -> Block:
    accelerator = kind(cpu=True, gradient_accumulation_steps=accumulated)
    model, optimizer = accelerator.prepare(*small())

    def plain(steps: int) -> None:
        for _ in range(steps):
            accelerator.backward(mse_loss(model(X), Y))
            optimizer.step()
            optimizer.zero_grad()

    def accumulating(steps: int) -> None:
        for _ in range(steps):
            with accelerator.accumulate(model):
                accelerator.backward(mse_loss(model(X), Y))
                optimizer.step()
                optimizer.zero_grad()

    return plain if accumulated == 1 else accumulating


def fabric_block(accumulated: int) -> Block:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(*small())

    def block(steps: int) -> None:
        for step in range(steps):
            last = (step + 1) % accumulated == 0
            with fabric.no_backward_sync(model, enabled=not last):
                loss = mse_loss(model(X), Y)
                fabric.backward(loss if accumulated == 1 else loss / accumulated)
            if last:
                optimizer.step()
                optimizer.zero_grad()

    return block


def one_process(rounds: int, steps: int) -> None:
    for accumulated in (1, 4):
        blocks = {
            "raw PyTorch": raw_block(*small(), accumulated),
            "notebook_accel": accelerator_block(Ours, accumulated),
        }
        if importlib.util.find_spec("accelerate"):
            from accelerate import Accelerator as Theirs

            blocks["Accelerate"] = accelerator_block(Theirs, accumulated)
        if importlib.util.find_spec("lightning"):
            blocks["Fabric"] = fabric_block(accumulated)
        title = "a step of Linear(10, 1), one process"
        report(
            f"{title}, accumulating {accumulated}" if accumulated > 1 else title,
            alternate(blocks, rounds, steps),
            "raw PyTorch",
        )


def on_two_ranks(rounds: int, steps: int) -> None:
    accelerator = Ours(cpu=True)
    for accumulated in (1, 4):
        model, optimizer = small()
        ddp = nn.parallel.DistributedDataParallel(model)
        blocks = {
            "hand-written DDP": raw_block(ddp, optimizer, accumulated),
            "notebook_accel": accelerator_block(Ours, accumulated),
        }
        found = alternate(blocks, rounds, steps)
        if accelerator.is_main_process:
            report(f"a step, two ranks, accumulating {accumulated}", found, "hand-written DDP")


def gathers_on_two_ranks(rounds: int, steps: int) -> None:
    accelerator = Ours(cpu=True)
    with_nothing_compared = Exchange(current().backend, debug=False)  # as ACCELERATE_DEBUG_MODE=false makes it
    for shape in ((8,), (256, 256)):
        tensor = torch.randn(*shape)
        rows: list[Any] = [torch.empty_like(tensor) for _ in range(2)]

        def by_hand(steps: int, tensor: torch.Tensor = tensor, rows: list[Any] = rows) -> None:
            for _ in range(steps):
                dist.all_gather(rows, tensor)
                torch.cat(rows)

        def ours(steps: int, tensor: torch.Tensor = tensor) -> None:
            for _ in range(steps):
                accelerator.gather(tensor)

        def uncompared(steps: int, tensor: torch.Tensor = tensor) -> None:
            for _ in range(steps):
                gather(tensor, with_nothing_compared)

        blocks = {"hand-written gather": by_hand, "notebook_accel": ours, "ACCELERATE_DEBUG_MODE=0": uncompared}
        found = alternate(blocks, rounds, steps)
        if accelerator.is_main_process:
            report(f"gather of {shape}, two ranks", found, "hand-written gather")


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, width)
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1000)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embedding(tokens)))


def large(rounds: int, steps: int, width: int) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = torch.randint(0, 1000, (16, 128 if device == "cuda" else 16), device=device)

    def synchronised(block: Block) -> Block:
        def whole(steps: int) -> None:
            block(steps)
            if device == "cuda":
                torch.cuda.synchronize()

        return whole

    def raw() -> Block:
        torch.manual_seed(0)
        model = Transformer(width).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def block(steps: int) -> None:
            for _ in range(steps):
                with torch.autocast(device, torch.bfloat16):
                    logits = model(tokens)
                cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
                optimizer.step()
                optimizer.zero_grad()

        return synchronised(block)

    def ours() -> Block:
        torch.manual_seed(0)
        accelerator = Ours(mixed_precision="bf16")
        model = Transformer(width)
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-4))

        def block(steps: int) -> None:
            for _ in range(steps):
                accelerator.backward(cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))
                optimizer.step()
                optimizer.zero_grad()

        return synchronised(block)

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    found = alternate({"raw PyTorch": raw(), "notebook_accel": ours()}, rounds, steps)
    report(f"a step of a 6-layer transformer of width {width} in bf16 on {name}", found, "raw PyTorch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=400, help="steps of one turn")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--width", type=int, default=512, help="of the large model")
    arguments = parser.parse_args()
    if arguments.large:
        large(arguments.rounds, max(1, arguments.steps // 20), arguments.width)
        return
    if "RANK" in os.environ:
        on_two_ranks(arguments.rounds, arguments.steps)
        gathers_on_two_ranks(arguments.rounds, arguments.steps)
        sys.stdout.flush()
        os._exit(0)  # torch ends some processes that have a gloo group by SIGABRT when they exit
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    one_process(arguments.rounds, arguments.steps)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run([*command, f"--rounds={arguments.rounds}", f"--steps={arguments.steps}"], env=variables, check=True)


if __name__ == "__main__":
    main()
