from __future__ import annotations

import pytest

from notebook_accel.worker import huge_pages
from tests.unit.worker.forks import in_a_fresh_process


@pytest.mark.parametrize(
    ("preparation", "answer"),
    [
        ("", "None"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "starts a thread"),
        (
            "import sys, types; fake = types.SimpleNamespace; cuda = fake(is_initialized=lambda: True)\n"  # noqa: ISC004
            "sys.modules['torch'] = fake(cuda=cuda)",
            "initialises CUDA (through torch)",
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


PRELOAD = """
import sys
from notebook_accel.worker.zygote import _preload
sys.path.insert(0, sys.argv[1])
print({name: (refusal.importable, refusal.reason) for name, refusal in _preload(sys.argv[2:]).items()})
print([name for name in sys.argv[2:] if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("names", "refused", "imported"),
    [
        (["good"], {}, ["good"]),
        ([], {}, []),
        (["good", "exits", "fine"], {"exits": (False, "cannot be imported: SystemExit: 3")}, ["good"]),
        (["missing"], {"missing": (False, "cannot be imported: ModuleNotFoundError: No module named 'missing'")}, []),
        (["threads", "fine"], {"threads": (True, "importing it starts a thread")}, ["threads"]),
    ],
    ids=str,
)
def test_preloading_stops_at_the_first_that_is_refused(tmp_path, names: list[str], refused: dict, imported: list[str]):
    thread = "import threading\nt = threading.Thread(target={}, daemon=True)\nt.start()\n"
    for name, text in {
        "good": "",
        "fine": "",
        "exits": "raise SystemExit(3)",
        "threads": thread.format("threading.Event().wait"),
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert in_a_fresh_process(PRELOAD, str(tmp_path), *names).splitlines() == [str(refused), str(imported)]


def test_a_helper_whose_kernel_is_gone_ends_before_it_imports_anything():
    code = """
import os, socket, sys
from notebook_accel.worker import zygote
ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
zygote.main(theirs.detach(), pid, [])
print("torch" in sys.modules)
"""
    assert in_a_fresh_process(code) == "False"
