"""What every way to start ranks has to keep: one body, over each."""

from __future__ import annotations

import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import subprocess
import sys
import threading
import types
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import psutil
import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import RankFailed, ResultUnavailable, RunInterrupted, RunTimedOut
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import forkserver
from notebook_accel.launch.fork import ForkSpawner
from notebook_accel.launch.forkserver import ForkserverSpawner
from notebook_accel.launch.inline import InlineSpawner
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.run import Run
from notebook_accel.launch.share import share
from notebook_accel.launch.spawn import SpawnSpawner
from notebook_accel.launch.spawner import Spawner
from notebook_accel.launch.xla import XlaSpawner
from tests.leaks import collect_garbage
from tests.ranks import keep_helper_warm
from tests.xla.chips import FAKE_FOLDER, plan_on_chips

SPAWNERS = {
    "fork": ForkSpawner,
    "forkserver": ForkserverSpawner,
    "inline": InlineSpawner,
    "spawn": SpawnSpawner,
    "xla": XlaSpawner,  # over a fake of torch_xla, whose devices are the CPU
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("spawn", "xla")]
SUPERVISED = ["fork", "forkserver", *SLOW]


@pytest.fixture(autouse=True)
def fake_torch_xla(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    monkeypatch.syspath_prepend(FAKE_FOLDER)
    monkeypatch.setenv("NOTEBOOK_ACCEL_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def plan_for(method: str, ranks: int, **config):
    if method == "xla":
        return plan_on_chips(RunConfig(**config), ranks)
    asked = RunConfig(num_processes=ranks, devices="cpu", start_method=method, **config)
    return make_plan(asked, Inventory.fake())


@pytest.fixture(scope="module", autouse=True)
def helper(marked_run: None):
    """One warm helper, and Python's own tracker: they exist before each test's leaks are counted."""
    keep_helper_warm()
    multiprocessing.resource_tracker.ensure_running()


@pytest.fixture(autouse=True)
def ended_runs():
    """Let supervisors end before leaks are counted: what is found costs the next test a new helper."""
    yield
    collect_garbage()
    zygote = forkserver._keeper._zygote
    if zygote is not None:
        psutil.wait_procs(psutil.Process(zygote.pid).children(recursive=True), timeout=10)


# A fresh interpreter takes seconds: what each rank is and does by itself is shown with it among the long tests.
@pytest.fixture(params=["fork", "forkserver", "inline", *SLOW])
def start(request: pytest.FixtureRequest):
    def start(function, *args, seed=None, **kwargs) -> Run:
        spawner: Spawner = SPAWNERS[request.param]()
        return spawner.start(plan_for(request.param, 1, seed=seed), Call(function, args, kwargs))

    return start


def test_the_value_comes_back(start):
    run = start(lambda a, *, b: {"sum": a + b}, 1, b=2)
    result = run.result()
    assert run.state == "succeeded"
    assert (result.value, result[0], list(result), len(result)) == ({"sum": 3}, {"sum": 3}, [{"sum": 3}], 1)
    assert result.elapsed_seconds > 0
    assert "{'sum': 3}" in repr(result)
    with pytest.raises(IndexError, match=r"0\.\.0"):
        result[1]


def test_a_failure_is_the_runs(start):
    def broken():
        print("before")
        raise LookupError("nothing here")

    run = start(broken)
    with pytest.raises(RankFailed, match="rank 0 of 1 failed: LookupError: nothing here") as caught:
        run.result()
    assert run.state == "failed"
    assert isinstance(caught.value.exception, LookupError)
    assert caught.value.exception.args == ("nothing here",)
    assert 'raise LookupError("nothing here")' in caught.value.failures[0].traceback
    assert "notebook_accel" not in caught.value.failures[0].traceback
    assert caught.value.result.logs(0) == "before\n"


def test_what_is_printed_is_kept(start):
    def speak():
        import sys

        print("out")
        sys.stderr.write("err")

    result = start(speak).result()
    assert result.logs(0) == "out\nerr"
    assert result.outputs[0].line_count() == 2


def test_the_function_finds_its_place(start):
    def look():
        import os

        return {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_CPU")}

    run = start(look)
    on_cpu = "true" if run.plan.device_kind == "cpu" else None
    expected = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": on_cpu}
    assert run.result().value == expected
    assert "RANK" not in os.environ


def test_an_accelerator_can_be_built(start):
    def build():
        from notebook_accel import Accelerator

        accelerator = Accelerator()
        return accelerator.num_processes, str(accelerator.device), accelerator.mixed_precision

    assert start(build).result().value == (1, "cpu", "no")


def test_a_seed_holds_the_draws(start):
    def draw():
        import random

        import torch

        return random.random(), torch.rand(1).item()

    assert start(draw, seed=5).result().value == start(draw, seed=5).result().value
    assert start(draw).result().value != start(draw).result().value


def test_a_value_that_is_an_exception_is_a_value(start):
    value = start(lambda: ValueError("returned")).result().value
    assert isinstance(value, ValueError)


@pytest.fixture(params=SUPERVISED)
def start_two(request: pytest.FixtureRequest):
    def start_two(function, *args, **config) -> Run:
        return SPAWNERS[request.param]().start(plan_for(request.param, 2, **config), Call(function, args))

    return start_two


def sleep_for_ever():
    import time

    print("asleep", flush=True)
    time.sleep(600)


@pytest.mark.parametrize("order", ["interrupt", "kill"])
def test_a_run_can_be_ended(start_two, order: str):
    run = start_two(sleep_for_ever)
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("asleep") == 2:
            assert run.state == "running"
            getattr(run, order)()
    assert run.state == "interrupted"
    with pytest.raises(RunInterrupted, match="sleep_for_ever was interrupted") as caught:
        run.result()
    assert caught.value.result.logs(1) == "asleep\n"
    assert run.interrupt() is None, "an ended run takes orders without complaint"


def test_a_run_is_followed_from_any_thread(start_two):
    run = start_two(lambda: 1)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(list(run.result())))
    thread.start()
    thread.join()
    assert found == [[1, 1]]
    assert run.notices() == []


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [((), {}, ((), {})), ((1, [2]), {"c": None}, ((1, [2]), {"c": None})), (({1, 2},), {}, (({1, 2},), {}))],
)
def test_arguments_arrive_as_they_were_given(start, args: tuple, kwargs: dict, expected: tuple):
    assert start(lambda *a, **k: (a, k), *args, **kwargs).result().value == expected


def test_an_ended_run_takes_orders_without_complaint(start):
    run = start(lambda: 1)
    assert run.result().value == run.result().value == 1
    assert "".join(run.output()) == ""
    assert (run.interrupt(), run.kill(), run.notices(), run.state) == (None, None, [], "succeeded")
    assert run.plan.world_size == 1


def test_each_read_of_a_failed_run_raises_the_same(start):
    def broken():
        raise LookupError("x")

    run = start(broken)
    raised = []
    for _ in range(2):
        with pytest.raises(RankFailed) as caught:
            run.result()
        raised.append(caught.value)
    assert raised[0] is raised[1]
    assert (raised[0].rank, raised[0].world_size, len(raised[0].result)) == (0, 1, 1)
    assert run.notices() == []


def test_an_exit_is_a_failure_with_advice(start):
    def leave():
        raise SystemExit(3)

    with pytest.raises(RankFailed, match="SystemExit: 3") as caught:
        start(leave).result()
    assert "return from the function" in caught.value.hint


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_large_values_can_be_written_to(start, name: str):
    def make(name):
        import numpy as np
        import torch

        return np.ones(500_000) if name == "numpy" else torch.ones(500_000)

    value = start(make, name).result().value
    value[0] = 5
    assert value.sum() == 500_004


def notebook_module(source: str) -> types.ModuleType:
    module = types.ModuleType("__main__")
    exec(compile(source, "<cell 1>", "exec"), module.__dict__)
    return module


def test_classes_of_the_notebook_stay_the_notebooks(start):
    cells = notebook_module(
        "class Metrics:\n    def look(self): return factor\nfactor = 1\ndef make(): return Metrics()"
    )
    value = start(cells.make).result().value
    cells.factor = 2
    assert type(value) is cells.Metrics
    assert value.look() == 2


def test_exceptions_of_the_notebook_stay_the_notebooks(start):
    source = "class OwnError(Exception):\n    def look(self): return factor\nfactor = 1\n"
    cells = notebook_module(f"{source}def fail(): raise OwnError('x')")
    with pytest.raises(RankFailed) as caught:
        start(cells.fail).result()
    assert type(caught.value.exception) is cells.OwnError
    cells.factor = 2
    assert cells.OwnError("y").look() == 2


@pytest.mark.parametrize(("ranks", "logged"), [(1, ["0\n"]), (2, ["0\n", "1\n"])])
@pytest.mark.parametrize("method", SUPERVISED)
def test_ranks_have_logs_and_labels_of_their_own(method: str, ranks: int, logged: list[str]):
    def speak():
        import os

        print(os.environ["RANK"])

    run = SPAWNERS[method]().start(plan_for(method, ranks), Call(speak))
    shown = "".join(run.output())
    result = run.result()
    assert [result.logs(rank) for rank in range(ranks)] == logged
    assert sorted(shown.splitlines()) == sorted(["0", "[rank 1] 1"][:ranks])


@pytest.mark.parametrize("too_few", [20, 21, 22, 23])
def test_too_many_ranks_for_the_descriptors_leave_none_open(too_few: int):
    code = """
import gc, os, resource, sys
from notebook_accel.config import RunConfig
from notebook_accel.errors import LaunchError
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import forkserver
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
forkserver.warm()
before = set(os.listdir("/proc/self/fd"))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + int(sys.argv[1]), hard))
try:
    forkserver.ForkserverSpawner().start(make_plan(RunConfig(num_processes=64), Inventory.fake()), Call(len))
except LaunchError as error:
    print(error.what)
gc.collect()
print(sorted(set(os.listdir("/proc/self/fd")) - before))
"""
    command = [sys.executable, "-c", code, str(too_few)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said, left = done.stdout.splitlines()
    assert said == "len could not be started: [Errno 24] Too many open files"
    assert left == "[]"


# ---- what a notebook does


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A notebook's ``__main__`` with a data set, a model's metrics and functions to launch."""
    module = notebook_module(NOTEBOOK)
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


NOTEBOOK = """
import functools, os, pickle, sys, typing
from dataclasses import dataclass

Name = typing.NewType("Name", str)

@functools.lru_cache(maxsize=4)
def square(number): return number * number

@functools.cache
def depth(n): return 1 + depth(n - 1) if n else 0

@dataclass
class Item:
    number: int
    worker: int

class Squares:
    def __init__(self, size): self.size = size
    def __len__(self): return self.size
    def __getitem__(self, index): return Item(square(index), os.getpid())
    @functools.cache
    def total(self, name: Name): return name, sum(self[i].number for i in range(self.size))
    @functools.cached_property
    def half(self): return self.size / 2

def collate(items):
    return Item([item.number for item in items], {item.worker for item in items})

def load(context, persistent):
    from torch.utils.data import DataLoader
    loader = DataLoader(
        Squares(8), batch_size=4, num_workers=2, collate_fn=collate, multiprocessing_context=context,
        persistent_workers=persistent,
    )
    epochs = [list(loader) for _ in range(2)]
    numbers = [[batch.number for batch in epoch] for epoch in epochs]
    workers = [frozenset.union(*(frozenset(batch.worker) for batch in epoch)) for epoch in epochs]
    same_class = all(type(batch) is Item for epoch in epochs for batch in epoch)
    return numbers, [len(found) for found in workers], workers[0] == workers[1], os.getpid() in workers[0], same_class

def use_names(given, squares, name):
    same = given is square and name is Name and squares.total.__func__ is Squares.total
    return same, given(3), square(4), square.cache_info(), depth(50), squares.total(name("a")), squares.half

def look_at_classes(item, cls):
    main = sys.modules["__main__"]
    again = pickle.loads(pickle.dumps(item))
    return (
        main.Item is Item, cls is Item, type(item) is Item, type(again) is Item, again == item, __name__,
        pickle.loads(pickle.dumps(collate)) is collate,
    )
"""


@pytest.fixture
def kept_handler():
    """Undo what torch does where its DataLoader starts workers, which may be this process."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.fixture
def no_fork_server():
    """End the server from which multiprocessing forks; where the rank is this process, it is this process's."""
    yield
    multiprocessing.forkserver._forkserver._stop()


def expected_of_loader(*, persistent: bool) -> tuple:
    return [[[0, 1, 4, 9], [16, 25, 36, 49]]] * 2, [2, 2], persistent, False, True


@pytest.mark.parametrize("persistent", [False, True])
def test_data_loader_workers_see_the_notebook(start, kept_handler, cells: types.ModuleType, persistent: bool):
    assert start(cells.load, None, persistent).result().value == expected_of_loader(persistent=persistent)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
@pytest.mark.parametrize("method", ["inline", *SUPERVISED])
def test_data_loader_workers_that_are_fresh_interpreters_see_the_notebook(
    method: str, context: str, cells: types.ModuleType, kept_handler, no_fork_server
):
    before = dict(vars(ForkingPickler))
    run = SPAWNERS[method]().start(plan_for(method, 1), Call(cells.load, (context, True)))
    assert run.result().value == expected_of_loader(persistent=True)
    assert dict(vars(ForkingPickler)) == before


def test_classes_of_the_notebook_are_the_ranks_own(start, cells: types.ModuleType):
    value = start(cells.look_at_classes, cells.Item(1, 2), cells.Item).result().value
    assert value == (True, True, True, True, True, "__main__", True)


def test_what_is_pickled_by_its_name_in_the_notebook_travels(start, cells: types.ModuleType):
    cells.square.cache_clear()
    value = start(cells.use_names, cells.square, cells.Squares(4), cells.Name).result().value
    assert value == (True, 9, 16, (0, 2, 4, 2), 50, ("a", 14), 2.0)


def test_writing_into_large_data_changes_the_ranks_copy_only(start_two):
    import numpy as np
    import torch

    tensor, array, shared = torch.zeros(400_000), np.zeros(200_000), share(torch.zeros(400_000), "table")
    view, rows = tensor[10:20], tensor.view(400, 1000)

    def write():
        import torch.distributed as dist

        dist.init_process_group("gloo")
        mark = dist.get_rank() + 1
        untouched = float(tensor.sum() + shared.value.sum() + array.sum())
        dist.barrier()
        tensor.add_(mark)
        array[:] = mark
        shared.value.fill_(mark)
        dist.barrier()
        views_see_it = bool((view == mark).all() and (rows == mark).all())
        view.fill_(7)
        views_are_it = bool((tensor[10:20] == 7).all() and rows[0, 10] == 7)
        shared.value.mul_(3)
        dist.barrier()
        return untouched, views_see_it, views_are_it, float(tensor[20]), float(array.sum()), float(shared.value[-1])

    values = list(start_two(write).result())
    assert values == [(0, True, True, mark, 200_000 * mark, 3 * mark) for mark in (1, 2)]
    assert (tensor.any().item(), array.any(), shared.value.any().item()) == (False, False, False)
    assert view.data_ptr() == tensor[10:].data_ptr()
    shared.free()


def test_two_ranks_form_a_group(start_two):
    def add():
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        total = torch.tensor([10.0 ** dist.get_rank()])
        dist.all_reduce(total)
        return dist.get_rank(), dist.get_world_size(), total.item()

    assert list(start_two(add).result()) == [(0, 2, 11.0), (1, 2, 11.0)]


@pytest.mark.parametrize(
    ("method", "seconds"),
    [
        ("fork", 3),
        ("forkserver", 3),
        *(pytest.param(name, 25, marks=pytest.mark.slow) for name in ("spawn", "xla")),
    ],
)
def test_a_run_that_has_had_its_time_says_where_it_was(method: str, seconds: float):
    def wait_for_ever():
        import time

        print("waiting", flush=True)
        time.sleep(600)  # the place

    run = SPAWNERS[method]().start(plan_for(method, 2, timeout_seconds=seconds), Call(wait_for_ever))
    with pytest.raises(RunTimedOut, match=f"wait_for_ever had not ended after timeout_seconds={seconds}") as caught:
        run.result()
    assert run.state == "timed out"
    assert sorted(caught.value.places) == [0, 1]
    for place in caught.value.places.values():
        assert place.startswith("in wait_for_ever (test_spawner.py, line ")
        assert place.endswith("time.sleep(600)  # the place")
    assert [caught.value.result.logs(rank) for rank in (0, 1)] == ["waiting\n"] * 2


def test_only_the_first_ranks_value_comes_back_where_that_was_asked(start_two):
    run = start_two(lambda: "kept", returns="rank0")
    result = run.result()
    assert result.value == "kept"
    with pytest.raises(ResultUnavailable, match='returns="rank0"'):
        result[1]
    assert (run.name, run.config.returns) == ("<lambda>", "rank0")
    assert run.plan.world_size == 2
    assert run.plan.start_method == (run.config.start_method or "fork")


def test_an_interrupt_ends_a_computation(start_two):
    def compute():
        import torch

        matrix = torch.eye(300)
        print("computing", flush=True)
        while True:
            matrix = matrix @ matrix

    run = start_two(compute)
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("computing") == 2:
            run.interrupt()
    with pytest.raises(RunInterrupted, match="compute was interrupted"):
        run.result()


def test_surroundings_are_those_of_the_launch(start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def look():
        import os

        return os.environ.get("SET_BEFORE"), os.environ.get("UNSET_BEFORE"), os.getcwd()

    monkeypatch.setenv("SET_BEFORE", "yes")
    monkeypatch.delenv("UNSET_BEFORE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert start(look).result().value == ("yes", None, str(tmp_path))


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_temporary_files_go_where_the_notebook_says(method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def look():
        import tempfile

        return tempfile.gettempdir()

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert SPAWNERS[method]().start(plan_for(method, 1), Call(look)).result().value == str(tmp_path)


def test_a_process_that_a_rank_forks_and_leaves_is_ended(start_two):
    def leave_a_child():
        import os
        import signal

        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(write, b"x")
            while True:
                signal.pause()
        assert os.read(read, 1) == b"x"
        return pid

    left = [psutil.Process(pid) for pid in start_two(leave_a_child).result() if psutil.pid_exists(pid)]
    assert psutil.wait_procs(left, timeout=30)[1] == []


def test_a_killed_rank_is_named_with_its_signal(start_two):
    def die():
        import os
        import signal

        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return "kept"

    with pytest.raises(RankFailed, match="rank 1 of 2 failed first: .*SIGKILL") as caught:
        start_two(die).result()
    assert (caught.value.failures[0].signal_name, caught.value.result[0]) == ("SIGKILL", "kept")
