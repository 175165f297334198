"""What it takes to save and load beside plain writes and reads of the same bytes, and Hugging Face Accelerate.

    python tests/benchmarks/checkpoint.py                    537 MB of parameters, 1.6 GB with Adam's state
    python tests/benchmarks/checkpoint.py --folder /mnt/x    on another disk
    python tests/benchmarks/checkpoint.py --width 256        less of it, to see that it runs

What is compared takes turns in random order, in one process; an interval is that of the median, by bootstrap. Every
write ends with an fsync and replaces a file of the same size; every read finds its file in the system's memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from notebook_accel import Accelerator as Ours  # noqa: E402 - after the path to it
from notebook_accel import load_checkpoint_in_model  # noqa: E402 - the same
from notebook_accel.core.files.tensors import memory_of  # noqa: E402 - the same
from tests.benchmarks.alternating import Block, Found, alternate, report  # noqa: E402 - the same

CHUNK_BYTES = 1 << 20
LAYERS = 32


def model_of(width: int, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(LAYERS)])


def repeated(work: Callable[[], Any]) -> Block:
    def block(steps: int) -> None:
        for _ in range(steps):
            work()

    return block


def sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def raw_write(model: nn.Module, folder: Path) -> None:
    checksum = xxhash.xxh3_64()
    with (folder / "new").open("wb", buffering=0) as file:
        for parameter in model.parameters():
            memory = memory_of(parameter)
            for start in range(0, len(memory), CHUNK_BYTES):
                checksum.update(memory[start : start + CHUNK_BYTES])
                file.write(memory[start : start + CHUNK_BYTES])
        os.fsync(file.fileno())
    (folder / "new").replace(folder / "raw")
    sync(folder)


def raw_read(model: nn.Module, folder: Path, buffer: torch.Tensor) -> None:
    with torch.no_grad(), (folder / "raw").open("rb", buffering=0) as file:
        for parameter in model.parameters():
            file.readinto(memory_of(buffer))
            parameter.copy_(buffer)


def raw_build(width: int, folder: Path, buffer: torch.Tensor) -> nn.Module:
    model = model_of(width, "meta")
    for layer in model:
        layer.weight = nn.Parameter(torch.empty(width, width))
    raw_read(model, folder, buffer)
    return model


def loaded(load: Callable[..., None], model: nn.Module, folder: Path, **how: Any) -> nn.Module:
    load(model, folder, **how)
    for parameter in model.parameters():
        parameter.detach().view(-1)[::1024].sum()  # a page that was only mapped is read when it is used
    return model


def weights(width: int, rounds: int, folder: Path) -> None:
    model, ours = model_of(width), Ours(cpu=True)
    places = {name: folder / name for name in ("raw", "ours", "shards", "theirs")}
    for place in places.values():
        place.mkdir()
    shard = max(4 * width * width, 4 * LAYERS * width * width // 4)
    saving = {
        "raw write": repeated(lambda: raw_write(model, places["raw"])),
        "notebook_accel": repeated(lambda: ours.save_model(model, places["ours"])),
        "in 4 shards": repeated(lambda: ours.save_model(model, places["shards"], shard)),
    }
    buffer = torch.empty(width, width)
    in_place = {
        "raw read and copy": repeated(lambda: raw_read(model, places["raw"], buffer)),
        "notebook_accel": repeated(lambda: loaded(load_checkpoint_in_model, model, places["ours"])),
        "from 4 shards": repeated(lambda: loaded(load_checkpoint_in_model, model, places["shards"])),
    }
    anew = {
        "raw read and copy": repeated(lambda: raw_build(width, places["raw"], buffer)),
        "notebook_accel": repeated(
            lambda: loaded(load_checkpoint_in_model, model_of(width, "meta"), places["ours"], device_map={"": "cpu"})
        ),
    }
    if importlib.util.find_spec("accelerate"):
        import accelerate

        theirs = accelerate.Accelerator(cpu=True)
        load = accelerate.load_checkpoint_in_model
        saving["Accelerate and fsync"] = repeated(
            lambda: (theirs.save_model(model, places["theirs"]), sync(places["theirs"]))
        )
        in_place["Accelerate"] = repeated(lambda: loaded(load, model, places["theirs"]))
        # It copies nothing there: its weights stay mapped from the file, and change or crash the process with that.
        anew["Accelerate, mapped"] = repeated(
            lambda: loaded(load, model_of(width, "meta"), places["theirs"], device_map={"": "cpu"})
        )
    report("save_model", alternate(saving, rounds, 1), "raw write")
    report("load_checkpoint_in_model, in place", alternate(in_place, rounds, 1), "raw read and copy")
    report("load_checkpoint_in_model, from the meta device", alternate(anew, rounds, 1), "raw read and copy")


def tensors_of(model: nn.Module, optimizer: Any) -> list[list[torch.Tensor]]:
    """What a checkpoint's two large files hold."""
    moments = [value for state in optimizer.state.values() for value in state.values() if value.numel() > 1]
    return [[parameter.detach() for parameter in model.parameters()], moments]


def write_all(files: list[list[torch.Tensor]], folder: Path) -> None:
    for number, tensors in enumerate(files):
        checksum = xxhash.xxh3_64()
        with (folder / f"{number}.new").open("wb", buffering=0) as file:
            for tensor in tensors:
                memory = memory_of(tensor)
                for start in range(0, len(memory), CHUNK_BYTES):
                    checksum.update(memory[start : start + CHUNK_BYTES])
                    file.write(memory[start : start + CHUNK_BYTES])
            os.fsync(file.fileno())
        (folder / f"{number}.new").replace(folder / str(number))
    sync(folder)


def read_all(files: list[list[torch.Tensor]], folder: Path) -> None:
    """Read into the parameters that are there, and into new memory for the optimizer, as a load does."""
    for number, tensors in enumerate(files):
        with (folder / str(number)).open("rb", buffering=0) as file:
            for tensor in tensors:
                target = torch.empty_like(tensor) if number else tensor
                buffer = torch.empty_like(tensor)
                file.readinto(memory_of(buffer))
                target.copy_(buffer)


def trained(accelerator: Any, width: int) -> tuple[nn.Module, Any]:
    model = model_of(width)
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), foreach=False))
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def states(width: int, rounds: int, folder: Path) -> None:
    ours = Ours(cpu=True)
    model, optimizer = trained(ours, width)
    files = tensors_of(model, optimizer.optimizer)
    places = {name: folder / f"state-{name}" for name in ("raw", "ours", "theirs", "later")}
    places["raw"].mkdir()
    saving = {
        "raw write": repeated(lambda: write_all(files, places["raw"])),
        "notebook_accel": repeated(lambda: ours.save_state(places["ours"])),
    }
    loading = {
        "raw read and copy": repeated(lambda: read_all(files, places["raw"])),
        "notebook_accel": repeated(lambda: ours.load_state(places["ours"])),
    }
    if importlib.util.find_spec("accelerate"):
        import accelerate

        theirs = accelerate.Accelerator(cpu=True)
        kept = trained(theirs, width)
        saving["Accelerate and fsync"] = repeated(
            lambda: (theirs.save_state(str(places["theirs"])), sync(places["theirs"]))
        )
        loading["Accelerate"] = repeated(lambda: theirs.load_state(str(places["theirs"])))
        assert kept
    report("save_state", alternate(saving, rounds, 1), "raw write")
    report("load_state", alternate(loading, rounds, 1), "raw read and copy")

    staging = [[torch.empty_like(tensor).copy_(tensor) for tensor in tensors] for tensors in files]

    def copy() -> None:
        for targets, tensors in zip(staging, files, strict=True):
            for target, tensor in zip(targets, tensors, strict=True):
                target.copy_(tensor)

    def stall() -> None:
        ours.save_state(places["later"], block=False)

    stalls: Found = {"copy of the state": [], "save_state(block=False)": []}
    for turn in range(rounds + 1):
        for name, work in zip(stalls, (copy, stall), strict=True):
            begun = time.perf_counter()
            work()
            if turn:  # the first allocates
                stalls[name].append(1e6 * (time.perf_counter() - begun))
            ours.wait_for_checkpoint()
    report("the step waits for", stalls, "copy of the state")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=2048, help="of the 32 layers: 2048 makes 537 MB")
    parser.add_argument("--folder", default=None, help="on the disk that is meant; a temporary one")
    asked = parser.parse_args()
    size = 4 * LAYERS * asked.width**2
    print(f"torch {torch.__version__} on {platform.machine()}, {os.cpu_count()} cores; {size / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        weights(asked.width, asked.rounds, Path(folder))
        states(asked.width, asked.rounds, Path(folder))


if __name__ == "__main__":
    main()
