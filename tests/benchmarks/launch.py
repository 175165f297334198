"""How long it takes from running a cell to holding its result, beside what people use today.

Everything runs in real kernels. Launches alternate between the launchers, with a pause in which the machine comes to
rest, and each is timed inside the kernel from the call until every rank is reaped. Run with ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.integration.kernels import Notebook

TRAINING = """
def train():
    import torch, torch.distributed as dist
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(16):
        model(torch.randn(32, 16)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return step

def train_aloud():
    print("trained")
    return train()
"""

# torch.multiprocessing must find its function in a module: a cell's function cannot be spawned.
SPAWNED = """
import os
def worker(rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    import torch
    torch.set_num_threads(1)
    train()
    torch.distributed.destroy_process_group()
"""

# Built, not used: forked from a kernel whose torch has computed with several threads, Accelerate's ranks hang.
READY_TO_FORK = """
import torch, torch._dynamo
optimizer = torch.optim.SGD(torch.nn.Linear(16, 4).parameters(), lr=0.1)
"""

SETUP = """
import os, sys, time, json
os.environ["ACCELERATE_USE_CPU"] = "true"
sys.path.insert(0, {folder!r})
ports = iter(range(29600, 29999))
def ours():
    from notebook_accel import notebook_launcher
    result = notebook_launcher(train, num_processes=2)
    assert list(result) == [15, 15]
def accelerate():
    from accelerate import notebook_launcher
    notebook_launcher(train, num_processes=2, use_port=str(next(ports)))
def ours_aloud():
    from notebook_accel import notebook_launcher
    result = notebook_launcher(train_aloud, num_processes=2)
    assert result.logs(0) == result.logs(1) == "trained\\n"
def accelerate_aloud():
    from accelerate import notebook_launcher
    notebook_launcher(train_aloud, num_processes=2, use_port=str(next(ports)))
def spawn():
    import torch.multiprocessing
    import spawned_training
    torch.multiprocessing.spawn(spawned_training.worker, args=(next(ports),), nprocs=2)
def seconds(launch):
    begin = time.perf_counter()
    launch()
    print(json.dumps(time.perf_counter() - begin))
"""

# What is captured, what is shared, and what comes back; "copy" is what no way to send a snapshot can do without.
PAYLOADS = """
import pickle, tempfile, torch
from multiprocessing import Pipe, get_context
from notebook_accel import notebook_launcher, share
data = torch.ones(250_000_000)
shared = share(data)
def ends(values):
    return float(values[0] + values[-1])
def nothing():
    assert list(notebook_launcher(lambda: 2.0, num_processes=2)) == [2, 2]
def captured():
    assert list(notebook_launcher(lambda: ends(data), num_processes=2)) == [2, 2]
def with_share():
    assert list(notebook_launcher(lambda: ends(shared.value), num_processes=2)) == [2, 2]
def copy():
    assert ends(data.clone()) == 2
def make():
    import torch
    return torch.ones(25_000_000)
def returned():
    assert [ends(value) for value in notebook_launcher(make, num_processes=2)] == [2, 2]
def save(folder):
    import os, torch
    torch.save(make(), os.path.join(folder, os.environ["RANK"]))
def by_disk():
    with tempfile.TemporaryDirectory() as folder:
        notebook_launcher(save, (folder,), num_processes=2)
        assert [ends(torch.load(os.path.join(folder, rank))) for rank in "01"] == [2, 2]
def send(end):
    torch.set_num_threads(1)  # a fork waits for ever for the threads that torch has in the kernel
    end.send_bytes(pickle.dumps(make().numpy(), protocol=5))
def by_pipe():
    pipes = [Pipe(duplex=False) for _ in range(2)]
    ranks = [get_context("fork").Process(target=send, args=(write,)) for _, write in pipes]
    for rank in ranks: rank.start()
    assert [ends(pickle.loads(read.recv_bytes())) for read, _ in pipes] == [2, 2]
    for rank in ranks: rank.join()
    for pipe in pipes: [end.close() for end in pipe]
"""


def seconds(notebook: Notebook, launcher: str) -> float:
    """Time one launch in the kernel."""
    text = notebook.check(f"seconds({launcher})")
    if launcher.endswith("aloud"):
        assert text.count("trained") == 2, f"the output of a rank is missing:\n{text}"
    return float(json.loads(text.strip().splitlines()[-1]))


def measure_second_launches(folder: str, preparation: str, launchers: list[str], rounds: int) -> dict[str, list[float]]:
    """Time ``rounds`` alternating launches in one kernel, after one of each that does not count."""
    notebook = Notebook(folder)
    try:
        notebook.check(SETUP.format(folder=folder) + TRAINING + preparation)
        for launcher in launchers:
            seconds(notebook, launcher)
        time.sleep(3)  # the helper works on its memory once, while it has nothing else to do
        found: dict[str, list[float]] = {launcher: [] for launcher in launchers}
        for number in range(rounds):
            # Whoever comes after another that has just given memory back finds it warm: each in its turn.
            for launcher in random.Random(number).sample(launchers, len(launchers)):
                time.sleep(0.3)
                found[launcher].append(seconds(notebook, launcher))
        return found
    finally:
        notebook.close()


def measure_cold_launch(folder: str, launcher: str) -> float:
    """Time the first cell of a fresh kernel: import, definition, launch, result."""
    notebook = Notebook(folder)
    try:
        begin = time.perf_counter()
        name = {"ours": "notebook_accel", "accelerate": "accelerate"}[launcher]
        notebook.check(f"from {name} import notebook_launcher\n" + SETUP.format(folder=folder) + TRAINING)
        seconds(notebook, launcher)
        return time.perf_counter() - begin
    finally:
        notebook.close()


def measure_import(rounds: int) -> list[float]:
    """Time ``import notebook_accel`` in fresh interpreters, without the interpreter's own start."""
    code = "import time; t = time.perf_counter(); import notebook_accel; print(time.perf_counter() - t)"
    return [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]


def row(name: str, values: list[float], base: float | None = None) -> float:
    """Print a median, the spread, and the ratio of ``base`` to it; give the median."""
    median = statistics.median(values)
    ratio = "" if base is None else f"{base / median:6.2f} x"
    print(f"  {name:<42} {median:7.3f} s   ({min(values):.3f} .. {max(values):.3f}, n={len(values)})   {ratio}")
    return median


def report_second_launches(folder: str, rounds: int) -> None:
    """Run the same cell again, beside the other launchers."""
    print("second launch, kernel that has imported torch._dynamo and built an optimizer (Accelerate's best case)")
    launchers = ["ours", "accelerate", "ours_aloud", "accelerate_aloud"]
    found = measure_second_launches(folder, READY_TO_FORK, launchers, rounds)
    ours = row("notebook_accel", found["ours"])
    row("accelerate", found["accelerate"], ours)
    aloud = row("notebook_accel, each rank prints a line", found["ours_aloud"])
    row("accelerate, each rank prints a line", found["accelerate_aloud"], aloud)
    print("second launch, kernel that has never built an optimizer (Accelerate's usual case)")
    found = measure_second_launches(folder, "import torch", ["ours", "accelerate", "spawn"], rounds)
    ours = row("notebook_accel", found["ours"])
    row("accelerate", found["accelerate"], ours)
    row("torch.multiprocessing.spawn", found["spawn"], ours)


def report_cold_launches(folder: str, rounds: int) -> None:
    """Run the first cell of a fresh kernel."""
    print("cold: fresh kernel, from the import to the first result")
    cold: dict[str, list[float]] = {"ours": [], "accelerate": []}
    for _ in range(rounds):
        for launcher, values in cold.items():
            values.append(measure_cold_launch(folder, launcher))
    row("accelerate", cold["accelerate"], row("notebook_accel", cold["ours"]))


def report_payloads(folder: str, rounds: int) -> None:
    """Send 1 GB to two ranks, and bring 100 MB from each."""
    launchers = ["nothing", "captured", "with_share", "copy", "returned", "by_disk", "by_pipe"]
    found = measure_second_launches(folder, PAYLOADS, launchers, rounds)
    print("1 GB captured by the function, 2 ranks")
    base = row("launch without data", found["nothing"])
    captured = row("launch with it", found["captured"])
    copy = row("copy of it into fresh memory", found["copy"], captured)
    row("launch with it shared before", found["with_share"])
    print(f"  launch with it / (copy + launch without): {captured / (copy + base):.2f}")
    print(f"  launch with it shared / launch without:   {statistics.median(found['with_share']) / base:.2f}")
    print("100 MB returned by each of 2 ranks")
    ours = row("notebook_accel", found["returned"])
    row("saved to disk by the rank, loaded again", found["by_disk"], ours)
    row("forked processes and plain pipes", found["by_pipe"], ours)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cold", type=int, default=5)
    parser.add_argument("--only", choices=["launches", "cold", "payloads"])
    options = parser.parse_args()
    import accelerate
    import torch

    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"accelerate {accelerate.__version__}; 2 CPU ranks, gloo, DDP, 16 steps; last column: ours / theirs\n")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "spawned_training.py").write_text(TRAINING + SPAWNED)
        row("import notebook_accel", measure_import(options.rounds))
        if options.only in {None, "launches"}:
            report_second_launches(folder, options.rounds)
        if options.only in {None, "payloads"}:
            report_payloads(folder, options.rounds)
        if options.only in {None, "cold"}:
            report_cold_launches(folder, options.cold)


if __name__ == "__main__":
    main()
