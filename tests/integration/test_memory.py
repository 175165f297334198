"""A large object that is sent to several ranks exists once more, not once a rank."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.integration.kernels import Notebook, names
from tests.integration.test_launch import literal
from tests.patience import wait_until

SIZE = 1_000_000_000
MOST_ADDED_BYTES = 1_200_000_000
RANKS = 4
TOLERANCE_BYTES = 60_000_000

# Each way to hold the data, with a function that reads all of it.
TENSOR = """
data = torch.ones({size} // 4)
def total(data): return data.sum(dtype=torch.float64).item()
"""
OBJECT = """
class Images:
    def __init__(self, parts):
        self.parts = [{{"pixels": torch.ones({size} // 4 // parts)}} for _ in range(parts - 2)]
        self.models = [torch.nn.Linear({size} // 8 // parts, 2, bias=False) for _ in range(2)]
        for model in self.models: torch.nn.init.ones_(model.weight)
data = Images(20)
def total(data):
    tensors = [part["pixels"] for part in data.parts] + [model.weight.detach() for model in data.models]
    return sum(tensor.sum(dtype=torch.float64).item() for tensor in tensors)
"""
HOLD = """
import fcntl, torch
from notebook_accel import *
torch.set_num_threads(1)
def hold(data):
    data = data.value if hasattr(data, "free") else data
    result = total(data)
    print("holding", flush=True)
    with open({gate!r}) as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
    return result
"""


@contextmanager
def closed(gate: Path) -> Iterator[object]:
    """The lock that ranks wait for, held."""
    with gate.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def proportional_bytes(notebook: Notebook) -> int:
    """The memory of the kernel and everything below it; what several of them map counts once."""
    total = 0
    for process in [psutil.Process(notebook.pid), *notebook.descendants()]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except (ProcessLookupError, FileNotFoundError):
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def file_bytes(notebook: Notebook) -> int:
    """The memory of the anonymous files that the kernel and everything below it have open."""
    sizes: dict[int, int] = {}
    for process in [psutil.Process(notebook.pid), *notebook.descendants()]:
        with suppress(FileNotFoundError):  # it has just been reaped
            for entry in Path(f"/proc/{process.pid}/fd").iterdir():
                if str(entry.readlink()).startswith("/memfd:"):
                    status = entry.stat()
                    sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


def idle(notebook: Notebook) -> bool:
    return wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 10)


def measure_while_held(notebook: Notebook, gate: Path, argument: str) -> int:
    """Launch ranks that read the data and hold it; give the memory of all processes at that moment."""
    measured: list[int] = []
    with closed(gate) as lock:

        def measure(text: str) -> None:
            if text.count("holding") == RANKS and not measured:
                measured.append(proportional_bytes(notebook))
                fcntl.flock(lock, fcntl.LOCK_UN)  # type: ignore[call-overload]

        reply = notebook.run(f"print(list(notebook_launcher(hold, ({argument},), {RANKS})))", measure)
    assert reply.error_name is None, reply.error_text
    assert literal(reply.text) == [SIZE // 4] * RANKS, "every rank has read all of it"
    assert idle(notebook)
    return measured[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TENSOR, OBJECT], ids=["tensor", "object"])
def test_a_large_object_is_copied_once_for_all_ranks(fresh_notebook: Notebook, tmp_path: Path, kind: str) -> None:
    notebook, gate = fresh_notebook, tmp_path / "gate"
    notebook.check(HOLD.format(gate=str(gate)) + kind.format(size=SIZE))
    notebook.check(f"notebook_launcher(lambda: 0, num_processes={RANKS})\n_ = total(data)")
    assert idle(notebook)
    before = proportional_bytes(notebook)
    assert before > SIZE, "the kernel has its own"

    added = measure_while_held(notebook, gate, "data") - before
    left = proportional_bytes(notebook) - before
    print(f"captured: {added / 1e6:.0f} MB more while {RANKS} ranks hold it, {left / 1e6:.0f} MB afterwards")
    assert added + TOLERANCE_BYTES > SIZE, "the ranks hold it"
    assert added < MOST_ADDED_BYTES
    assert left < TOLERANCE_BYTES
    assert file_bytes(notebook) < TOLERANCE_BYTES

    notebook.check("shared = share(data)")
    assert abs(file_bytes(notebook) - SIZE) < TOLERANCE_BYTES
    first, second = (measure_while_held(notebook, gate, "shared") - before for _ in range(2))
    print(f"shared: {first / 1e6:.0f} MB more in the first launch, {second / 1e6:.0f} MB in the second")
    assert first + TOLERANCE_BYTES > SIZE
    assert first < MOST_ADDED_BYTES
    assert second < first + TOLERANCE_BYTES
    assert abs(file_bytes(notebook) - SIZE) < TOLERANCE_BYTES, "one copy for both"

    notebook.check("shared.free()")
    left = proportional_bytes(notebook) - before
    print(f"freed: {left / 1e6:.0f} MB")
    assert left < TOLERANCE_BYTES
    assert file_bytes(notebook) < TOLERANCE_BYTES
