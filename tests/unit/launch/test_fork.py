from __future__ import annotations

import os
import signal
import sys
import threading
import types

import psutil
import pytest

torch = pytest.importorskip("torch")

from notebook_accel.config import RunConfig  # noqa: E402
from notebook_accel.errors import ConfigError, LaunchError, NotAvailableError, RankFailed  # noqa: E402
from notebook_accel.hardware.inventory import Inventory  # noqa: E402
from notebook_accel.launch.fork import ForkSpawner, _Supervisor  # noqa: E402
from notebook_accel.launch.job import Call  # noqa: E402
from notebook_accel.launch.plan import make_plan  # noqa: E402
from notebook_accel.launch.run import Run  # noqa: E402
from tests.unit.launch.runs import open_descriptors  # noqa: E402
from tests.unit.worker.forks import in_a_child, in_a_fresh_process  # noqa: E402


def forked(function, *args: object, **config: object) -> Run:
    plan = make_plan(
        RunConfig(**{"num_processes": 1, "devices": "cpu", "start_method": "fork", **config}), Inventory.fake()
    )
    return ForkSpawner().start(plan, Call(function, args))


def test_nothing_is_pickled_on_the_way_there():
    lock = threading.Lock()
    opened = open(os.devnull)  # noqa: SIM115 - closed below

    def look(unpicklable):
        with lock:
            return unpicklable is opened, os.getppid() != parent

    parent = os.getpid()
    assert forked(look, opened).result().value == (True, True)
    opened.close()


def test_large_objects_are_seen_and_not_copied():
    rows = [0] * 3_000_000
    before = id(rows)

    def look():
        own = private_bytes()
        total = len(rows)
        return id(rows) == before, total, private_bytes() - own

    def private_bytes() -> int:
        with open("/proc/self/smaps_rollup") as file:
            return sum(
                int(line.split()[1]) * 1024 for line in file if line.startswith(("Private_Dirty", "Private_Clean"))
            )

    if sys.platform != "linux":
        pytest.skip("it measures with /proc")
    same, total, grown = forked(look).result().value
    assert (same, total) == (True, 3_000_000)
    assert grown < 8_000_000, "a copy would take 24 MB"


def test_what_a_rank_changes_stays_with_it():
    rows = [1]

    def change():
        rows.append(int(os.environ["RANK"]))
        os.environ["OWN"] = "1"
        return rows

    assert list(forked(change, num_processes=2).result()) == [[1, 0], [1, 1]]
    assert rows == [1]
    assert "OWN" not in os.environ


def test_classes_of_the_notebook_stay_the_kernels_own():
    cells = types.ModuleType("__main__")
    exec(
        compile(
            "class Metrics:\n    def look(self): return factor\nfactor = 1\ndef make(): return [Metrics()]",
            "<c>",
            "exec",
        ),
        cells.__dict__,
    )
    (value,) = forked(cells.make).result().value
    cells.factor = 7
    assert type(value) is cells.Metrics
    assert value.look() == 7


def test_threads_of_torch_are_refused_and_one_is_taken_by_itself():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(
            ConfigError, match="threads_per_rank=2 with start_method=.fork.*missing in its forks"
        ) as caught:
            forked(int, threads_per_rank=2)
        assert caught.value.hint
        found = forked(lambda: (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"])).result().value
        assert found == (1, "1")
    finally:
        torch.set_num_threads(before)


def test_a_process_that_has_computed_on_threads_can_be_forked():
    code = """
import threading
import numpy, torch
torch.set_num_threads(2)
for _ in range(3):
    torch.randn(600, 600) @ torch.randn(600, 600)
    numpy.random.rand(600, 600) @ numpy.random.rand(600, 600)
x = torch.randn(500_000, requires_grad=True)
x.exp().sum().backward()
from notebook_accel import notebook_launcher

def train():
    model = torch.nn.Linear(300, 300)
    optimizer = torch.optim.Adam(model.parameters())
    data = torch.randn(2000, 300)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(data).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    numpy.random.rand(600, 600) @ numpy.random.rand(600, 600)
    return losses[0] > losses[-1], threading.active_count()

result = notebook_launcher(train, num_processes=2, devices="cpu", start_method="fork", timeout_seconds=60)
print(list(result))
"""
    assert in_a_fresh_process(code).splitlines()[-1] == "[(True, 1), (True, 1)]"


def test_a_process_with_a_live_accelerator_is_refused(monkeypatch: pytest.MonkeyPatch):
    stand_in = types.ModuleType("torch_xla")
    stand_in._XLAC = types.SimpleNamespace(_xla_runtime_is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "torch_xla", stand_in)
    before = open_descriptors()
    with pytest.raises(NotAvailableError, match="cannot work here: the XLA runtime is initialised") as caught:
        forked(int)
    assert "restart the kernel" in caught.value.hint
    assert open_descriptors() == before


def test_a_run_is_reaped_and_leaves_nothing_open():
    before = open_descriptors()
    for _ in range(3):
        run = forked(lambda: 1)
        assert run.result().value == 1
        with pytest.raises(ChildProcessError):
            os.waitpid(run._parent._pid, 0)
    del run
    assert open_descriptors() == before


def test_somebody_else_may_have_reaped_it():
    pid = in_a_child(lambda: os._exit(0))
    supervisor = _Supervisor(pid)
    os.waitpid(pid, 0)
    assert supervisor.run_ended(begun=True) is None
    problem = LaunchError("what", "hint")
    assert supervisor.explain(problem) is problem


def test_a_killed_supervisor_ends_its_ranks_and_is_said():
    def sleep():
        print("ready", flush=True)
        signal.pause()

    run = forked(sleep, num_processes=2)
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("ready") == 2:
            ranks = psutil.Process(run._parent._pid).children()
            os.kill(run._parent._pid, signal.SIGKILL)
    with pytest.raises(LaunchError, match="supervisor ended before its ranks did"):
        run.result()
    assert len(ranks) == 2
    assert psutil.wait_procs(ranks, timeout=10)[1] == []
    assert run.state == "failed"


def test_a_failure_is_a_ranks_own():
    def broken():
        raise LookupError("here")

    with pytest.raises(RankFailed, match="LookupError: here") as caught:
        forked(broken).result()
    assert 'raise LookupError("here")' in caught.value.failures[0].traceback
    assert "notebook_accel" not in caught.value.failures[0].traceback
