from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import ctypes
import enum
import functools
import logging
import multiprocessing
import multiprocessing.pool
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import PayloadError
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import advice, anatomy, preflight
from notebook_accel.launch.inline import InlineSpawner
from notebook_accel.launch.job import Call, make_job
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.preflight import LARGE_JOB_BYTES, Preflight
from notebook_accel.launch.share import share

LOCK = threading.Lock()


def cell(source: str, **names: object) -> types.ModuleType:
    """A module like a notebook: what is defined in it travels by value."""
    module = types.ModuleType("__main__")
    module.__dict__.update(names)
    exec(compile(source, "<cell>", "exec"), module.__dict__)
    return module


def refused(function: Callable[..., Any], *args: object, **kwargs: object) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        make_job(Call(function, args, kwargs))
    return caught.value


def path_of(error: PayloadError) -> str:
    return error.what.split("because of ")[1].split(" (")[0]


def travels(value: object) -> tuple[str, ...]:
    job = make_job(Call(len, (value,)))
    job.close()
    return job.notices


# ---- paths

NOTEBOOK = """
import functools

def use(): return guard
def use_nested():
    def inner(): return [use() for _ in range(2)]
    return (lambda: inner())()
def use_recursive(n): return guard if n else use_mutual(n)
def use_mutual(n): return use_recursive(n)
def positional(a, b=1, c=guard): return c
def keyword(*, c=guard): return c
def make(captured):
    def closure(): return captured
    return closure
def logged(function):
    @functools.wraps(function)
    def wrapper(*args): return function(*args)
    return wrapper
@logged
def decorated(): return guard
def plain(*args, **kwargs): pass
def marked(): pass
marked.cache = [guard]
class Base:
    shared = {"guard": guard}
class Child(Base):
    def fit(self): return super()
class Methods:
    @staticmethod
    def static(): return guard
class Properties:
    @property
    def value(self): return guard
class Slots:
    __slots__ = ("a", "b")
class Holder: pass
def use_class(): return Child
def use_static(): return Methods.static()
def use_property(): return Properties().value
def use_config(): return config
@functools.lru_cache
def cached(n): return guard if n else cached(n - 1)
def use_cached(): return cached(1)
class Caching:
    @functools.cache
    def load(self): return guard
    @functools.cached_property
    def size(self): return 1
class Sizes:
    @functools.cached_property
    def size(self): return guard
def use_caching(): return Caching().load()
def use_sizes(): return Sizes().size
"""


def notebook() -> types.ModuleType:
    return cell(NOTEBOOK, guard=LOCK, config={"file": 1, "deep": [{1, 2}, ({"x": [0, LOCK]},)]})


@pytest.mark.parametrize(
    ("function", "path"),
    [
        ("use", "use -> guard"),
        ("use_nested", "use_nested -> use -> guard"),
        ("use_recursive", "use_recursive -> guard"),
        ("use_mutual", "use_mutual -> use_recursive -> guard"),
        ("positional", "positional -> default of c"),
        ("keyword", "keyword -> default of c"),
        ("decorated", "decorated.__wrapped__ -> guard"),
        ("marked", "marked.cache[0]"),
        ("use_class", "use_class -> Child.__bases__[0].shared['guard']"),
        ("use_static", "use_static -> Methods.static -> guard"),
        ("use_property", "use_property -> Properties.value -> guard"),
        ("use_config", "use_config -> config['deep'][1][0]['x'][1]"),
        ("cached", "cached.__wrapped__ -> guard"),
        ("use_cached", "use_cached -> cached.__wrapped__ -> guard"),
        ("use_caching", "use_caching -> Caching.load.__wrapped__ -> guard"),
        ("use_sizes", "use_sizes -> Sizes.size.func -> guard"),
    ],
)
def test_the_path_from_a_function(function: str, path: str):
    error = refused(getattr(notebook(), function))
    assert path_of(error) == path
    assert "(a thread lock): TypeError: cannot pickle '_thread.lock' object" in error.what


def with_attribute(holder: Any, value: object) -> object:
    holder.items = [1, 2, 3, value]
    return holder


def with_slots(slots: Any, value: object) -> object:
    slots.a, slots.b = 1, value
    return slots


def list_subclass(value: object) -> object:
    return type("Items", (list,), {"__module__": "__main__"})([0, value])


class OwnState:
    def __init__(self, value: object) -> None:
        self.value = value

    def __getstate__(self) -> dict[str, object]:
        return {"given": self.value}


class OwnReduce:
    def __init__(self, value: object) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduce, (self.value,)


class Nameless:
    def __reduce__(self) -> tuple[Any, ...]:
        return Nameless, (1, (2, LOCK))


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - the kind that is meant


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda m, v: [v], "args[0][0]"),
        (lambda m, v: (1, {"k": v}), "args[0][1]['k']"),
        (lambda m, v: {3: v}, "args[0][3]"),
        (lambda m, v: {(1, 2): v}, "args[0][(1, 2)]"),
        (lambda m, v: {v: 1}, "args[0] -> key of type lock"),
        (lambda m, v: {v}, "args[0] -> member of type lock"),
        (lambda m, v: frozenset([v]), "args[0] -> member of type lock"),
        (lambda m, v: collections.deque([1, v]), "args[0][1]"),
        (lambda m, v: collections.OrderedDict(a=v), "args[0]['a']"),
        (lambda m, v: collections.defaultdict(list, a=[v]), "args[0]['a'][0]"),
        (lambda m, v: with_attribute(m.Holder(), v), "args[0].items[3]"),
        (lambda m, v: with_slots(m.Slots(), v), "args[0].b"),
        (lambda m, v: list_subclass(v), "args[0][1]"),
        (lambda m, v: Point(1, v), "args[0].y"),
        (lambda m, v: ValueError("x", v), "args[0].args[1]"),
        (lambda m, v: OwnState(v), "args[0].given"),
        (lambda m, v: OwnReduce(v), "args[0].value"),
        (lambda m, v: Nameless(), "args[0].__reduce__()[1][1][1]"),
        (lambda m, v: functools.partial(m.plain, 1, v), "args[0].args[1]"),
        (lambda m, v: functools.partial(m.plain, k=v), "args[0].keywords['k']"),
        (lambda m, v: with_attribute(m.Holder(), v).items.append, "args[0].__self__[3]"),
        (lambda m, v: types.SimpleNamespace(a=types.SimpleNamespace(b=v)), "args[0].a.b"),
        (lambda m, v: m.make(v), "args[0] -> captured"),
        (lambda m, v: m.make(m.make(v)), "args[0] -> captured -> captured"),
        (lambda m, v: types.MappingProxyType({"a": v}), "args[0]['a']"),
    ],
)
def test_the_path_inside_an_argument(wrap: Callable[[types.ModuleType, object], object], path: str):
    assert path_of(refused(len, wrap(cell(NOTEBOOK, guard=None, config=None), LOCK))) == path


def test_the_paths_beginning():
    assert path_of(refused(len, 1, LOCK)) == "args[1]"
    assert path_of(refused(len, key=[LOCK])) == "kwargs['key'][0]"
    module = notebook()
    assert path_of(refused(functools.partial(module.plain, LOCK))) == "partial.args[0]"
    bound = types.MethodType(module.plain, types.SimpleNamespace(lock=LOCK))
    assert path_of(refused(bound)) == "plain.__self__.lock"


def test_a_member_of_an_enumeration():
    class Kind(enum.Enum):
        A = 1
        B = LOCK

    assert path_of(refused(len, Kind)) == "args[0].B"


def test_cycles():
    one: dict[str, object] = {}
    two = [one]
    one["two"], one["self"] = two, one
    two += [two, LOCK]
    assert path_of(refused(len, one)) == "args[0]['two'][2]"


def test_one_among_very_many_is_found():
    table = [list(range(100)) for _ in range(5000)]
    table[4321][77] = LOCK  # type: ignore[call-overload]
    assert path_of(refused(len, table)) == "args[0][4321][77]"


def test_a_long_path_keeps_its_ends():
    nest: object = LOCK
    for _ in range(60):
        nest = [nest]
    path = path_of(refused(len, {"deep": nest}))
    assert path.startswith("args[0]['deep'][0]")
    assert "steps" in path or path.endswith("...")
    assert len(path) < 120


def test_what_is_nested_too_deeply():
    nest: list[object] = []
    for _ in range(200_000):
        nest = [nest]
    error = refused(len, {"deep": nest})
    assert "deep recursion" in error.what
    assert "flatten" in error.hint
    while nest:  # or its end recurses too
        nest = nest.pop()  # type: ignore[assignment]


def test_large_buffers_are_not_copied_to_find_the_culprit():
    np = pytest.importorskip("numpy")
    scale = preflight._Scale(())
    scale.dump([np.zeros(1_000_000), bytearray(10)])
    assert scale.total_bytes > 8_000_000
    assert scale.stream.getbuffer().nbytes == 0
    assert scale.large_buffers == []


# ---- the user's own code


class Rude:
    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)

    def __repr__(self) -> str:
        raise LookupError("repr")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise LookupError("first line\nsecond line")

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise LookupError("dict")


def test_an_object_that_is_pickled_as_a_name_of_the_notebook():
    module = cell("""
class Mark:
    def __reduce__(self): return "MISSING"
MISSING = Mark()
def train(): return options
""")
    module.options = {"fill": [1, module.MISSING]}
    error = refused(module.train)
    assert error.what == (
        "train cannot be sent to the ranks because of train -> options['fill'][1] "
        "(of type Mark, which is pickled as the bare name MISSING of this notebook)"
    )
    assert error.hint == (
        "define it in a module that the ranks can import, or let its __reduce__ return what it is built from"
    )
    with pytest.raises(PayloadError, match=r"table\[0\] \(of type Mark"):
        share([module.MISSING], "table")


def test_objects_that_raise_at_every_touch():
    error = refused(len, [Rude()])
    assert error.what.endswith("args[0][0] (of type Rude): LookupError: first line")
    assert error.hint == "create it inside the function, where each rank makes its own"
    assert path_of(refused(len, {Rude(): LOCK})).startswith("args[0] -> key of type Rude")


class Guarded:
    def __init__(self) -> None:
        self.lock = LOCK

    @property
    def size(self) -> int:
        raise RuntimeError("closed")


def test_a_property_that_raises_does_not_hide_the_culprit():
    assert path_of(refused(len, Guarded())) == "args[0].lock"


def test_errors_without_a_text():
    class Silent:
        def __reduce__(self) -> Any:
            raise SilentError

    class SilentError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert "SilentError: without a message" in refused(len, Silent()).what


def test_what_fails_only_once_is_still_an_error():
    class Once:
        tries = 0

        def __reduce__(self) -> Any:
            Once.tries += 1
            if Once.tries == 1:
                raise ValueError("once")
            return Once, ()

    assert "because of len " in refused(len, Once()).what


# ---- advice, one real object each


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None:
    pass


async def async_generator():
    yield 1


def closing(stack: ExitStack, thing: Any) -> Any:
    stack.callback(thing.close)
    return thing


def opened(stack: ExitStack, mode: str, buffering: int = -1) -> Any:
    return closing(stack, open(os.devnull, mode, buffering))


def thread(stack: ExitStack) -> threading.Thread:
    return threading.Thread(target=print)


def executor(stack: ExitStack) -> Any:
    return stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))


def program(stack: ExitStack) -> subprocess.Popen[bytes]:
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stack.callback(started.wait)
    assert started.stdin
    stack.callback(started.stdin.close)
    return started


def mp_queue(stack: ExitStack) -> Any:
    queue = FORK.Queue()
    stack.callback(queue._writer.close)  # which its feeder thread would close, had it one
    return closing(stack, queue)


def mp_simple_queue(stack: ExitStack) -> Any:
    return closing(stack, FORK.SimpleQueue())


def connection(stack: ExitStack) -> Any:
    first, second = multiprocessing.Pipe()
    stack.callback(second.close)
    return closing(stack, first)


def sockets(stack: ExitStack) -> socket.socket:
    first, second = socket.socketpair()
    stack.callback(second.close)
    return closing(stack, first)


def database(stack: ExitStack) -> sqlite3.Connection:
    return closing(stack, sqlite3.connect(":memory:"))


def event_loop(stack: ExitStack) -> asyncio.AbstractEventLoop:
    return closing(stack, asyncio.new_event_loop())


def traceback_() -> Any:
    try:
        raise ValueError  # noqa: TRY301 - its traceback is wanted
    except ValueError as error:
        return error.__traceback__


class Anchor:
    pass


ANCHOR = Anchor()
FORK = multiprocessing.get_context("fork")  # the others start a resource tracker that stays


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: threading.Lock(), "a thread lock"),
        (lambda s: threading.RLock(), "a thread lock"),
        (lambda s: threading.local(), "a thread-local variable"),
        (lambda s: threading.Condition(), "a thread condition"),
        (lambda s: threading.Event(), "a thread event"),
        (lambda s: threading.BoundedSemaphore(), "a thread semaphore"),
        (lambda s: threading.Barrier(2), "a thread barrier"),
        (thread, "a thread"),
        (executor, "an executor"),
        (lambda s: concurrent.futures.Future(), "a future"),
        (program, "a running program"),
        (lambda s: FORK.Process(target=print), "a process"),
        (mp_queue, "a multiprocessing queue"),
        (mp_simple_queue, "a multiprocessing queue"),
        (lambda s: FORK.Lock(), "a multiprocessing lock"),
        (lambda s: FORK.Event(), "a multiprocessing event"),
        (lambda s: FORK.Condition(), "a multiprocessing condition"),
        (connection, "a multiprocessing connection"),
        (lambda s: opened(s, "wb"), "the open file '/dev/null', mode 'wb'"),
        (lambda s: opened(s, "rb"), "the open file '/dev/null', mode 'rb'"),
        (lambda s: opened(s, "r+b", 0), "the open file '/dev/null', mode 'rb+'"),
        (lambda s: opened(s, "w"), "the open file '/dev/null', mode 'w'"),
        (sockets, "a socket"),
        (database, "a database connection"),
        (lambda s: closing(s, database(s).cursor()), "a database cursor"),
        (lambda s: generator(), "a generator"),
        (lambda s: async_generator(), "an async generator"),
        (lambda s: closing(s, coroutine()), "a coroutine"),
        (lambda s: sys._getframe(), "a frame of running code"),
        (lambda s: traceback_(), "a traceback"),
        (lambda s: event_loop(s).create_future(), "an asyncio future"),
        (event_loop, "an event loop"),
        (lambda s: weakref.ref(ANCHOR), "a weak reference"),
        (lambda s: weakref.WeakValueDictionary(a=ANCHOR), "a dict of weak references"),
        (lambda s: weakref.WeakKeyDictionary({ANCHOR: 1}), "a dict of weak references"),
        (lambda s: ctypes.pointer(ctypes.c_int(1)), "a ctypes object that holds a pointer"),
        (lambda s: ctypes.c_void_p(1), "a ctypes object that holds a pointer"),
        (lambda s: ctypes.CDLL(None), "a loaded library"),
        (lambda s: logging.StreamHandler(), "a logging handler"),
    ],
)
def test_advice(make: Callable[[ExitStack], object], words: str):
    with ExitStack() as stack:
        error = refused(len, {"it": make(stack)})
    assert f"args[0]['it'] ({words})" in error.what
    assert error.hint not in {"", preflight._ANYWHERE}


def test_a_process_pool():
    with ExitStack() as stack:
        pool = multiprocessing.pool.ThreadPool(1)
        stack.callback(pool.join)
        stack.callback(pool.terminate)
        assert "(a process pool)" in refused(len, pool).what


def test_an_asyncio_task():
    async def main() -> PayloadError:
        task = asyncio.current_task()
        return refused(len, task)

    assert "(an asyncio task)" in asyncio.run(main()).what


def test_a_widget():
    widgets = pytest.importorskip("ipywidgets")
    slider = widgets.IntSlider()
    try:
        assert refused(len, [slider]).what.endswith("args[0][0] (a widget)")
    finally:
        slider.close()


def test_the_notebooks_shell():
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell")
    shell = interactiveshell.InteractiveShell.__new__(interactiveshell.InteractiveShell)
    module = cell("def timed(): return get_ipython()", get_ipython=types.MethodType(len, shell))
    error = refused(module.timed)
    assert error.what.endswith("timed -> get_ipython.__self__ (the notebook's IPython shell)")
    assert "get_ipython()" in error.hint


def test_a_run_of_this_notebook():
    pytest.importorskip("torch")
    run = InlineSpawner().start(make_plan(RunConfig(start_method="inline"), Inventory.fake()), Call(int))
    assert refused(len, run).what.endswith("args[0] (a run of this notebook)")


def test_a_progress_bar_that_writes_to_what_cannot_travel():
    tqdm = pytest.importorskip("tqdm")
    with open(os.devnull, "w") as sink, tqdm.tqdm(total=1, file=sink) as bar:
        assert "args[0] (a progress bar)" in refused(len, bar).what


# ---- torch


def device_tensor(torch: Any) -> Any:
    class OnDevice(torch.Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl

        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise AssertionError("nothing may be computed")

    return torch.Tensor._make_wrapper_subclass(OnDevice, (2,), dtype=torch.float32, device="cuda:0")


def test_a_tensor_on_a_device():
    torch = pytest.importorskip("torch")
    module = cell("def train(): return batch['x']", batch={"x": device_tensor(torch)})
    error = refused(module.train)
    assert error.what.endswith("train -> batch['x'] (a tensor on cuda:0)")
    assert ".cpu()" in error.hint
    travels(
        [
            torch.ones(2).untyped_storage(),
            torch.ones(2),
            torch.ones(2, device="meta"),
            torch.nn.Parameter(torch.ones(2)),
        ]
    )


def test_what_belongs_to_torchs_processes():
    torch = pytest.importorskip("torch")
    import torch.distributed as dist

    group = dist.ProcessGroup(0, 1)
    assert refused(len, group).what.endswith("args[0] (a process group)")
    wrapped = torch.nn.parallel.DistributedDataParallel.__new__(torch.nn.parallel.DistributedDataParallel)
    assert refused(len, [wrapped]).what.endswith("args[0][0] (a DistributedDataParallel model)")
    iterator = iter(torch.utils.data.DataLoader([1, 2, 3]))
    assert "args[0] (the iterator of a DataLoader)" in refused(len, iterator).what


def test_accelerators():
    pytest.importorskip("torch")
    from notebook_accel.core.accelerator import Accelerator

    module = cell("def train(): return accelerator", accelerator=Accelerator.__new__(Accelerator))
    error = refused(module.train)
    assert error.what.endswith("train -> accelerator (an Accelerator)")
    assert "inside the function" in error.hint
    accelerate = pytest.importorskip("accelerate")
    other = accelerate.Accelerator.__new__(accelerate.Accelerator)
    assert refused(len, [other]).what.endswith("args[0][0] (an Accelerator)")


def test_what_a_training_notebook_holds_travels():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(4, 2)), shuffle=True)
    travels([model, optimizer, scheduler, loader, torch.amp.GradScaler("cpu"), torch.Generator(), torch.device("cuda")])


@dataclass
class Settings:
    rate: float = 0.1


def test_what_travels_is_not_refused():
    travels(
        [
            logging.getLogger(__name__),
            logging.getLogger(),
            Settings(),
            memoryview(b"abc"),
            os,
            len,
            int,
            ctypes.c_int(3),
            weakref.WeakSet(),
            range(3),
            Ellipsis,
            cell("x = 1"),
        ]
    )


def test_a_table_of_samples_travels():
    datasets = pytest.importorskip("sklearn.datasets")
    travels(datasets.load_iris())


def test_the_advice_is_looked_up_once_for_each_type(monkeypatch: pytest.MonkeyPatch):
    refusals = advice.Refusals()
    assert refusals(Settings()) is NotImplemented
    known = dict(refusals._by_type)
    assert refusals(Settings()) is NotImplemented
    assert refusals._by_type == known
    assert len(known) == 1


def test_types_that_cannot_be_hashed_or_named():
    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            raise LookupError

    odd = Meta("Odd", (), {})()
    assert advice.Refusals()(odd) is NotImplemented
    assert advice.advice_for(odd) is None
    assert advice.advice_for(int) is None


# ---- what is large


def notices(roots: dict[str, object], total_bytes: int = LARGE_JOB_BYTES) -> list[str]:
    return Preflight("train", roots.items()).large_captures(total_bytes)


def test_small_jobs_are_not_looked_into():
    class Counting:
        def __reduce__(self) -> Any:
            raise AssertionError("it was looked at")

    assert notices({"args[0]": Counting()}, LARGE_JOB_BYTES - 1) == []


def test_what_is_large_is_named_with_its_size():
    images = bytearray(80_000_000)
    module = cell("def train(): return load()\ndef load(): return images, names", images=images, names=["a"] * 100)
    args = {"rest": {"labels": [bytes(20_000_000)], "few": b"x"}}
    found = notices({"train": module.train, "args[0]": args})
    assert found == [
        "100 MB travel to the ranks: train -> load -> images: 80 MB; args[0]['rest']['labels'][0]: 20 MB",
        'share(obj) copies it once for many launches; start_method="fork" copies nothing',
    ]


def test_what_a_cached_function_uses_is_named():
    source = """
import functools
@functools.cache
def load(): return images
class Data:
    @functools.cached_property
    def table(self): return labels
def train(): return load(), Data().table
"""
    module = cell(source, images=bytearray(80_000_000), labels=bytearray(20_000_000))
    found = notices({"train": module.train})[0]
    assert "train -> load.__wrapped__ -> images: 80 MB; train -> Data.table.func -> labels: 20 MB" in found


def test_the_walk_stops_where_no_part_dominates():
    halves = {"a": bytearray(50_000_000), "b": bytearray(50_000_000)}
    assert "args[0]['data']: 100 MB" in notices({"args[0]": {"data": halves}})[0]


def test_the_same_object_is_named_once():
    images = bytearray(100_000_000)
    module = cell("def train(): return data, images", images=images, data=types.SimpleNamespace(images=images))
    assert notices({"train": module.train})[0].count("100 MB") == 2  # the total, and one path


def test_at_most_three_are_named():
    found = notices({f"args[{i}]": bytearray(25_000_000 + i * 1_000_000) for i in range(4)})[0]
    assert "args[0]" not in found
    assert found.endswith("args[3]: 28 MB; args[2]: 27 MB; args[1]: 26 MB")


def test_many_small_parts():
    assert "in many small parts" in notices({"args[0]": 1}, 2_000_000_000)[0]
    assert notices({"args[0]": 1}, 2_000_000_000)[0].startswith("2.0 GB travel")


def test_arrays_are_named_whole_and_a_numpy_view_brings_only_itself():
    np = pytest.importorskip("numpy")
    whole = np.zeros(13_000_000)
    found = notices({"args[0]": types.SimpleNamespace(x=whole)})[0]
    assert found.endswith("args[0].x: 104 MB")
    assert travels(whole[:10]) == ()
    assert travels(whole[::1000]) == ()


def test_a_small_view_of_a_large_tensor():
    torch = pytest.importorskip("torch")
    view = torch.zeros(26_000_000)[:1000]
    job = make_job(Call(cell("def train(): return view", view=view).train))
    job.close()
    assert job.notices[0] == (
        "104 MB travel to the ranks: train -> view: 104 MB "
        "(a view of 4 KB that brings its whole storage; send .clone() of it)"
    )
    assert travels(view.clone()) == ()


def test_steps_are_written_as_a_person_would():
    key = "k" * 100
    assert len(str(anatomy.Step("item", key))) < 50
    assert str(anatomy.Step("item", Rude())) == "[<Rude>]"
