from __future__ import annotations

import subprocess
import sys

import pytest

from notebook_accel.worker import huge_pages


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("preparation", "answer"),
    [
        ("", "None"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "starts a thread"),
        (
            "import sys, types; fake = types.SimpleNamespace; cuda = fake(is_initialized=lambda: True)\n"  # noqa: ISC004
            "sys.modules['torch'] = fake(cuda=cuda)",
            "initialises CUDA through torch",
        ),
    ],
)
def test_what_makes_a_fork_unsafe_is_named(preparation: str, answer: str):
    code = f"{preparation}\nfrom notebook_accel.worker.zygote import why_unsafe_to_fork\nprint(why_unsafe_to_fork())"
    assert answer in in_a_fresh_process(code)


def test_a_typical_training_imports_nothing_that_the_helper_could_have_imported():
    code = """
from notebook_accel import notebook_launcher
def train():
    import sys
    from notebook_accel import Accelerator
    import torch
    before = set(sys.modules)
    accelerator = Accelerator()
    model = torch.nn.Linear(4, 2)
    data = torch.utils.data.TensorDataset(torch.randn(16, 4), torch.randint(0, 2, (16,)))
    parts = model, torch.optim.AdamW(model.parameters()), torch.utils.data.DataLoader(data, 4, shuffle=True)
    model, optimizer, loader = accelerator.prepare(*parts)
    for x, y in loader:
        accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
    accelerator.gather_for_metrics(y)
    return sorted(set(sys.modules) - before)
print(notebook_launcher(train, num_processes=2, devices="cpu").value)
"""
    imported = in_a_fresh_process(code).splitlines()[-1]
    assert imported == "[]", f"imported in every rank of every launch: {imported}"


def test_collapsing_the_heap_leaves_it_intact():
    marker = [bytes([i % 256]) * 1000 for i in range(10_000)]
    worked = list(huge_pages.collapse_heap())
    assert all(marker[i] == bytes([i % 256]) * 1000 for i in range(10_000))
    assert worked, "a process of this size has a heap"


def test_a_system_without_a_list_of_mappings(tmp_path):
    assert list(huge_pages.collapse_heap(tmp_path / "none")) == []
