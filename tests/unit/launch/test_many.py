from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import types
from importlib import import_module
from pathlib import Path

import pytest

pytest.importorskip("torch")

from notebook_accel import launch_map
from notebook_accel.errors import ConfigError, PayloadError, RankFailed, RunTimedOut
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import preflight, slots, start
from tests.unit.launch.runs import ended_runs, gpus, helper

__all__ = ["ended_runs", "helper"]


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def by_value(function):
    """Let it travel as a cell's function does."""
    function.__module__ = "__main__"
    return function


@by_value
def in_reverse(item: int, folder: str, last: int) -> int:
    """End only after the next item has."""
    path = Path(folder)
    while item < last and not (path / str(item + 1)).exists():
        threading.Event().wait(0.005)
    (path / str(item)).touch()
    return item * 10


def test_results_are_in_the_order_of_the_items_whatever_ends_first(monkeypatch: pytest.MonkeyPatch, folder: str):
    monkeypatch.setattr(slots, "probe", lambda: Inventory.fake(cpu_cores=3))
    results = launch_map(in_reverse, [0, 1, 2], kwargs={"folder": folder, "last": 2})
    assert list(results) == [0, 10, 20]
    assert results.items == (0, 1, 2)
    times = [os.stat(Path(folder) / str(item)).st_mtime_ns for item in (2, 1, 0)]
    assert times == sorted(times)


@by_value
def inverse(item: object) -> float:
    print(f"looking at {item}")
    return 1 / item


def test_an_item_that_fails_costs_the_others_nothing(capsys: pytest.CaptureFixture[str]):
    items = [1, 0, threading.Lock(), 4]
    results = launch_map(inverse, items)
    assert results.value_or() == [1.0, None, None, 0.25]
    assert sorted(results.failures) == [1, 2]
    with pytest.raises(RankFailed, match="ZeroDivisionError"):
        results[1]
    with pytest.raises(PayloadError, match=r"args\[0\] \(a thread lock\)"):
        results[2]
    assert [results.logs(index) for index in range(4)] == ["looking at 1\n", "looking at 0\n", "", "looking at 4\n"]
    shown = capsys.readouterr().out
    assert "[0] looking at 1\n" in shown
    assert "[3] looking at 4\n" in shown
    assert shown.startswith("notebook_accel: inverse for 4 items, ")


def test_a_run_is_a_world_of_its_own(capsys: pytest.CaptureFixture[str]):
    def meet(item, *, factor):
        import torch
        import torch.distributed as dist

        dist.init_process_group("gloo")
        total = torch.tensor([item * (dist.get_rank() + 1)])
        dist.all_reduce(total)
        print("met")
        return total.item() * factor, dist.get_world_size(), torch.initial_seed()

    results = launch_map(by_value(meet), [1, 2], 2, kwargs={"factor": 10}, seed=5)
    assert list(results) == [(30, 2, 5), (60, 2, 5)]
    assert results.logs(1, 1) == "met\n"
    assert "[1.1] met\n" in capsys.readouterr().out


@by_value
def counted(item: int, folder: str) -> tuple[str, int]:
    """Give the GPU that it sees, and how many runs were under way at most."""
    mine = Path(folder) / f"{item}"
    mine.touch()
    while item < 2 and len(os.listdir(folder)) < 2:
        threading.Event().wait(0.005)  # the first two go on at the same time
    most = 2 if item < 2 else 0
    try:
        for _ in range(10):
            most = max(most, len(os.listdir(folder)))
            threading.Event().wait(0.005)
        return os.environ["CUDA_VISIBLE_DEVICES"], most
    finally:
        mine.unlink()


def test_items_queue_for_the_gpus(monkeypatch: pytest.MonkeyPatch, folder: str):
    for module in (start, slots):
        monkeypatch.setattr(module, "probe", gpus(2))
    results = list(launch_map(counted, range(5), kwargs={"folder": folder}))
    assert {gpu for gpu, _ in results} == {"0", "1"}
    assert max(most for _, most in results) == 2
    assert start.held_devices() == frozenset()


class CountedFunction:
    pickled = 0

    def __reduce__(self):
        CountedFunction.pickled += 1
        return str, ()


def test_the_function_is_pickled_once():
    CountedFunction.pickled = 0
    tally = CountedFunction()

    def train(item):
        return item, tally

    assert list(launch_map(by_value(train), "abc")) == [("a", ""), ("b", ""), ("c", "")]
    assert CountedFunction.pickled == 1


def test_large_items_are_named_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(preflight, "LARGE_JOB_BYTES", 1_000_000)
    items = [bytes(2_000_000), bytearray(2_000_000), b"small", {"rows": bytes(5_000_000)}]
    assert list(launch_map(by_value(lambda item: len(item) * 2), items)) == [4_000_000, 4_000_000, 10, 2]
    said = [line for line in capsys.readouterr().out.splitlines() if "item " in line]
    assert said == [
        "notebook_accel: item 0: 2 MB travel to the ranks: args[0]: 2 MB",
        'notebook_accel: item 0: share(obj) copies it once for many launches; start_method="fork" copies nothing',
        "notebook_accel: item 3: 5 MB travel to the ranks: args[0]['rows']: 5 MB",
    ]


def test_modules_edited_meanwhile_are_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr(slots, "probe", lambda: Inventory.fake(cpu_cores=1))
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_for_map.py"
    file.write_text("def rate(): return 1")
    import_module("own_for_map")

    def train(item):
        if item == 1:
            file.write_text("def rate(): return 2222")
        return item

    try:
        assert list(launch_map(by_value(train), [0, 1, 2, 3])) == [0, 1, 2, 3]
    finally:
        del sys.modules["own_for_map"]
    said = [line for line in capsys.readouterr().out.splitlines() if "own_for_map.py was edited" in line]
    assert len(said) == 1


CACHED = """
import functools
@functools.cache
def depth(n): return 1 + depth(n - 1) if n else 0
def train(given): return given(40), depth(3), given.cache_info().currsize
"""


def test_a_cached_function_of_a_cell_may_be_used_and_given(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("__main__")
    exec(CACHED, module.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", module)
    assert list(launch_map(module.train, [module.depth, module.depth])) == [(40, 3, 41)] * 2


def test_a_forked_function_is_not_pickled_at_all():
    lock = threading.Lock()

    def train(item):
        with lock:
            return item

    assert list(launch_map(by_value(train), [1, 2], start_method="fork")) == [1, 2]


def test_each_item_has_its_time():
    def train(seconds):
        import time

        time.sleep(seconds)
        return seconds

    results = launch_map(by_value(train), [0, 600], timeout_seconds=3)
    assert results.value_or() == [0, None]
    assert isinstance(results.errors[1], RunTimedOut)


def test_an_item_is_started_again():
    def train(item):
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            raise LookupError(item)
        return item

    assert list(launch_map(by_value(train), [1], max_restarts=1)) == [1]


def test_no_items_start_nothing():
    results = launch_map(inverse, [])
    assert (list(results), results.failures) == ([], {})
    assert start.last_run() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_method": "inline"}, "runs one function at a time"),
        ({"devices_per_run": 0}, "num_processes must be 1 or more"),
        ({"kwargs": [1]}, "kwargs must be a dict"),
        ({"devices": (7,)}, "names"),
        ({"max_restarts": -1}, "max_restarts"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_at_once(options: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        launch_map(inverse, [1], **options)
    assert start.last_run() is None


def test_a_function_that_cannot_travel_starts_nothing():
    lock = threading.Lock()
    with pytest.raises(PayloadError, match="lock"):
        launch_map(by_value(lambda item: lock), [1])
    assert start.last_run() is None


INTERRUPTED = """
import os, signal, sys, time
from notebook_accel import launch_map

def train(item):
    if item < 2:
        return item
    print("waiting", flush=True)
    time.sleep(600)

class Pressing:
    def write(self, text):
        if "[2] waiting" in text:
            os.kill(os.getpid(), signal.SIGINT)
        return sys.__stdout__.write(text)
    def flush(self): sys.__stdout__.flush()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    sys.stdout = Pressing()
    try:
        launch_map(train, range(6), devices="cpu", threads_per_rank=1)
    except KeyboardInterrupt as error:
        result = error.result
        print(f"{result.value_or()} {sorted(result.failures)} {[type(e).__name__ for e in result.errors]}")
        try:
            result[5]
        except Exception as error:
            print(str(error).splitlines()[0])
"""


def test_an_interrupted_map_keeps_what_had_returned():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, values, unstarted = done.stdout.splitlines()
    assert values.startswith("[0, 1, None, None, None, None] [2")
    assert "RunInterrupted" in values
    assert unstarted == "item 5 was not started: launch_map was interrupted"
    assert "2 of 6 items had returned: sys.last_value.result has them" in done.stdout


WATCHED = """
import sys, threading
from pathlib import Path
from notebook_accel import launch_map
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import slots

folder = Path(sys.argv[1])

def train(item):
    '''End only after the next item has started, for which an earlier one must have been taken.'''
    (folder / str(item)).touch()
    while item < 4 and not (folder / str(item + 1)).exists():
        threading.Event().wait(0.005)
    assert item not in (1, 3)

if __name__ == "__main__":
    slots.probe = lambda: Inventory.fake(cpu_cores=2)
    launch_map(train, range(5), devices="cpu")
"""


def test_the_bar_counts_the_items_with_those_that_run_and_that_failed(folder: str):
    command = [sys.executable, "-c", WATCHED, folder]
    at_once = {**os.environ, "TQDM_MININTERVAL": "0"}  # every change is drawn
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=at_once)
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = re.findall(r"train: +(\d+)%\|[^|]*\| (\d)/5 \[(?:.*running=(\d), failed=(\d))?", done.stderr)
    seen = list(dict.fromkeys(tuple(int(number or 0) for number in found) for found in drawn))
    assert seen[:4] == [(0, 0, 0, 0), (20, 1, 1, 0), (40, 2, 1, 1), (60, 3, 1, 1)]
    assert seen[4:] in ([(80, 4, 1, 2), (100, 5, 0, 2)], [(80, 4, 1, 1), (100, 5, 0, 2)], [(100, 5, 0, 2)])
