from __future__ import annotations

import os
import threading
import types

import pytest

pytest.importorskip("torch")

from notebook_accel import share
from notebook_accel.config import RunConfig
from notebook_accel.errors import PayloadError
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.forkserver import ForkserverSpawner
from notebook_accel.launch.job import Call, make_job
from notebook_accel.launch.plan import make_plan
from tests.unit.launch.runs import (
    background,
    ended_runs,
    helper,
    open_descriptors,
    until_said,
)

__all__ = ["ended_runs", "helper"]


def cell(source: str, **names: object) -> types.ModuleType:
    module = types.ModuleType("__main__")
    module.__dict__.update(names)
    exec(compile(source, "<cell 4>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(
    ("obj", "name", "said"),
    [([1], None, "list"), ([1], "rows", "rows"), (max, None, "max"), (dict, None, "dict")],
)
def test_names(obj: object, name: str | None, said: str):
    with share(obj, name) as handle:
        assert handle.name == said
        assert handle.value == obj


def test_what_cannot_travel_is_named():
    with pytest.raises(PayloadError, match=r"batch\['lock'\] \(a thread lock\)"):
        share({"lock": threading.Lock()}, "batch")


def test_a_shared_object_may_hold_others():
    pytest.importorskip("torch")
    inner = share([1], "inner")
    with share({"a": inner, "b": [inner]}, "outer") as outer, share([outer, inner], "outermost") as outermost:
        assert outermost.value[0] is outer
        assert outer.value["a"] is outer.value["b"][0] is inner

        def look():
            first, second = outermost.value
            return first.value["a"].value, first.value["a"] is second, first.value["b"][0] is second

        plan = make_plan(RunConfig(num_processes=1, devices="cpu"), Inventory.fake())
        assert ForkserverSpawner().start(plan, Call(look)).result().value == ([1], True, True)
    inner.free()
    with pytest.raises(PayloadError, match="the shared inner was freed"):
        share(inner)


def test_a_shared_cached_function_is_another_with_an_empty_cache():
    module = cell("import functools\n@functools.cache\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)")
    module.fib(10)
    with share([module.fib, module.fib]) as handle:
        first, second = handle.value
        assert (first is second, first.cache_info().currsize, first(30)) == (True, 0, 832040)
        assert module.fib.cache_info().currsize == 11


def test_the_source_of_a_shared_function_travels():
    import linecache

    source = "def train(x):\n    return 1 / x\n"
    function = cell(source).train
    linecache.cache["<cell 4>"] = (len(source), None, source.splitlines(keepends=True), "<cell 4>")
    try:
        handle = share(function)
    finally:
        del linecache.cache["<cell 4>"]
    assert handle.sources == {"<cell 4>": source.splitlines(keepends=True)}
    job = make_job(Call(handle, (1,)))
    assert job.sources == handle.sources
    job.close()


def test_one_file_for_a_handle_however_often_it_is_named():
    first, second = share([1]), share([2])
    job = make_job(Call(max, (first, [first, second]), {"key": second}))
    assert len(job.files) == 3
    assert not set(job.files) & {first.file, second.file}, "the job has files of its own"
    job.close()
    for file in job.files:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(file)


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda table: Call(max, (1, table)), r"args\[1\]"),
        (lambda table: Call(max, (), {"key": {"a": table}}), r"kwargs\['key'\]\['a'\]"),
        (lambda table: Call(cell("def train(): return table.value", table=table).train), "train -> table"),
    ],
)
def test_a_freed_handle_is_refused_with_its_path(call, path: str):
    table = share([1], "table")
    table.free()
    with pytest.raises(PayloadError, match=path) as caught:
        make_job(call(table))
    assert "was freed" in str(caught.value)


LOOK = """
def look(first, again, *, third):
    first.value.append(len(first.value))
    return first is again, first.value, third.value
"""


def test_ranks_read_what_was_shared():
    table, weights = share([1, 2, 3]), share({"a": 0.5})
    before = open_descriptors()
    for _ in range(2):
        bound = cell(LOOK + "def call(a, b): return look(a, b, third=weights)", weights=weights).call
        run = background(bound, table, table, num_processes=2)
        found = list(run.result())
        assert found == [(True, [1, 2, 3, 3], {"a": 0.5})] * 2, "each begins with what was shared"
        del run, found
    assert table.value == [1, 2, 3]
    assert open_descriptors() <= before + 1, "one for the mapping that was read here"


def test_a_shared_function_is_called():
    train = cell("def train(a, *, b=1):\n    print('called')\n    return a + b").train
    with share(train) as shared:
        run = background(shared, 1)
        result = run.result()
    assert (run.name, result.value, result.logs()) == ("train", 2, "called\n")


def test_a_run_keeps_what_it_reads_when_the_handle_is_freed():
    source = (
        "def train(gate, table):\n"
        "    print('ready', flush=True)\n"
        "    with open(gate) as file: file.read()\n"
        "    return sum(table.value)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "gate")
        os.mkfifo(gate)
        table = share([1, 2, 3])
        run = background(cell(source).train, gate, table)
        until_said(run, "ready")
        table.free()
        with open(gate, "w"):
            pass
        assert run.result().value == 6


def test_a_handle_that_comes_back_holds_its_value():
    table = share([1, 2], "table")
    returned = background(cell("def give(table): return table").give, table).result().value
    table.free()
    assert (returned.name, returned.value) == ("table", [1, 2])


def test_a_worker_of_a_loader_gets_it_by_value():
    source = (
        "class Rows:\n"
        "    def __init__(self, table): self.table = table\n"
        "    def __len__(self): return len(self.table.value)\n"
        "    def __getitem__(self, i): return self.table.value[i]\n"
        "def train(table):\n"
        "    from torch.utils.data import DataLoader\n"
        "    loader = DataLoader(Rows(table), batch_size=3, num_workers=1, multiprocessing_context='spawn')\n"
        "    return [batch.tolist() for batch in loader]\n"
    )
    with share([5, 6, 7]) as table:
        assert background(cell(source).train, table).result().value == [[5, 6, 7]]


def test_a_module_travels_as_it_is_here(monkeypatch: pytest.MonkeyPatch):
    import sys

    module = types.ModuleType("made_up_module")
    exec("def scale(x): return 3 * x", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_up_module", module)
    handle = share(module.scale, by_value=["made_up_module"])
    monkeypatch.delitem(sys.modules, "made_up_module")
    assert handle.value(2) == 6
