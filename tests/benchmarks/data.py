"""What a prepared loader and gather_for_metrics cost beside the bare DataLoader and a hand-written all_gather.

    python tests/benchmarks/data.py    one process, then two ranks; prints medians and ratios

The loops take turns in random order, in one process; Hugging Face Accelerate is measured beside where it is installed.
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
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from notebook_accel import Accelerator as Ours
from tests.benchmarks.alternating import Block, alternate, report

BATCH = 16


def data(batches: int) -> TensorDataset:
    return TensorDataset(torch.randn(batches * BATCH, 8))


def reading(loader: Any) -> Block:
    def block(batches: int) -> None:
        read = 0
        while read < batches:
            for _ in loader:
                read += 1

    return block


def gathering(gather: Any, loader: Any) -> Block:
    def block(batches: int) -> None:
        done = 0
        while done < batches:
            for (rows,) in loader:
                gather(rows)
                done += 1

    return block


def kinds() -> dict[str, Any]:
    found: dict[str, Any] = {"notebook_accel": Ours}
    if importlib.util.find_spec("accelerate"):
        from accelerate import Accelerator as Theirs

        found["Accelerate"] = Theirs
    return found


def one_process(rounds: int, batches: int) -> None:
    blocks = {"bare DataLoader": reading(DataLoader(data(batches), batch_size=BATCH))}
    for name, kind in kinds().items():
        blocks[name] = reading(kind(cpu=True).prepare(DataLoader(data(batches), batch_size=BATCH)))
    report("a batch, one process", alternate(blocks, rounds, batches), "bare DataLoader")


def on_two_ranks(rounds: int, batches: int) -> None:
    accelerator = Ours(cpu=True)
    whole = data(2 * batches)
    sampler: Any = DistributedSampler(whole, shuffle=False)
    bare = DataLoader(whole, batch_size=BATCH, sampler=sampler)
    prepared = {name: kind(cpu=True) for name, kind in kinds().items()}
    loaders = {name: each.prepare(DataLoader(whole, batch_size=BATCH)) for name, each in prepared.items()}
    blocks = {"bare DataLoader": reading(bare)} | {name: reading(loader) for name, loader in loaders.items()}
    found = alternate(blocks, rounds, batches)
    if accelerator.is_main_process:
        report("a batch, two ranks", found, "bare DataLoader")

    rows = [torch.empty(BATCH, 8) for _ in range(2)]

    def by_hand(mine: torch.Tensor) -> torch.Tensor:
        dist.all_gather(rows, mine)
        return torch.cat(rows)

    blocks = {"hand-written": gathering(by_hand, bare)}
    for name, each in prepared.items():
        blocks[name] = gathering(each.gather_for_metrics, loaders[name])
    found = alternate(blocks, rounds, batches)
    if accelerator.is_main_process:
        report(f"a batch and its gather_for_metrics of ({BATCH}, 8), two ranks", found, "hand-written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batches", type=int, default=300, help="of one turn")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        on_two_ranks(arguments.rounds, arguments.batches)
        sys.stdout.flush()
        os._exit(0)  # torch ends some processes that have a gloo group by SIGABRT when they exit
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    one_process(arguments.rounds, arguments.batches)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(
        [*command, f"--rounds={arguments.rounds}", f"--batches={arguments.batches}"], env=variables, check=True
    )


if __name__ == "__main__":
    main()
