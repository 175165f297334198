"""What to do about objects that cannot travel, by their type's name: nothing is imported to know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from notebook_accel.errors import AccelError

T = TypeVar("T")
_DEVICES_THAT_TRAVEL = ("cpu", "meta")
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Advice:
    """What an object is, and what to do instead of sending it.

    Attributes:
        words: what it is, or a function of the object that says so.
        do: what to do instead.
        refused: it must not travel, although pickling it may succeed.
        applies: whether the advice holds for this object of the type.
    """

    words: str | Callable[[Any], str]
    do: str
    refused: bool = False
    applies: Callable[[Any], bool] | None = None

    def describe(self, obj: object) -> str:
        """Say what the object is."""
        return self.words if isinstance(self.words, str) else attempt(self.words, obj) or type(obj).__name__

    def holds_for(self, obj: object) -> bool:
        """True where the advice is about this very object."""
        return self.applies is None or bool(attempt(self.applies, obj))


def attempt(function: Callable[[Any], T], obj: object) -> T | None:
    """Call a function that may run the user's own code, which may raise anything."""
    try:
        return function(obj)
    except Exception:  # noqa: BLE001 - see above
        return None


class RefusedError(AccelError):
    """Stops the pickling at an object that must not travel."""


class Refusals:
    """A reducer that refuses what must not travel; one look-up per object otherwise."""

    def __init__(self) -> None:
        self._by_type: dict[int, tuple[type, Advice | None]] = {}

    def __call__(self, obj: object) -> Any:
        """Give NotImplemented, which leaves the object to the pickler.

        Raises:
            RefusedError: the object must not travel.
        """
        kind = type(obj)
        known = self._by_type.get(id(kind))  # by identity: a metaclass may forbid hashing
        if known is None:
            advice = advice_for_type(kind)
            known = self._by_type[id(kind)] = kind, advice if advice is not None and advice.refused else None
        if known[1] is not None and known[1].holds_for(obj):
            raise RefusedError(f"{known[1].describe(obj)} cannot be sent to the ranks", known[1].do)
        return NotImplemented


def advice_for(obj: object) -> Advice | None:
    """Give the advice about an object, None where there is none of its own."""
    advice = advice_for_type(type(obj))
    return advice if advice is not None and advice.holds_for(obj) else None


def advice_for_type(kind: type) -> Advice | None:
    """Give the advice for the most special of the type's classes that has one."""
    for cls in type.mro(kind) if kind is not type else ():
        advice = _TABLE.get(f"{cls.__module__}.{cls.__qualname__}")
        if advice is not None:
            return advice
    return None


def _device(obj: Any) -> str:
    return str(getattr(obj, "_untyped_storage", obj).device.type)  # a typed storage's own device warns that it is old


def _file(obj: Any) -> str:
    name = getattr(obj, "name", None)
    shown = repr(name)[:_LONGEST_NAME] if isinstance(name, (str, bytes)) else "without a name"
    mode = getattr(obj, "mode", None)
    return f"the open file {shown}" + (f", mode {mode!r}" if isinstance(mode, str) else "")


_LOCK = "it only works between the threads of one process; create it inside the function"
_SHARED = "it is shared with the processes that this one starts itself; ranks talk through torch.distributed"
_STARTED = "it belongs to this process; start it inside the function"
_EVENT_LOOP = "it belongs to this process's event loop; use asyncio.run inside the function"
_OPEN_FILE = "send its path and open it inside the function"
_CONNECTION = "send what it connects to and connect inside the function"
_ITERATOR = "send what it is made from, or list(...) of it, and make it inside the function"
_BUILD = "build it inside the function:  def train(): accelerator = Accelerator(); ..."
_DEVICE = "send .cpu() of it, or build it inside the function and move it to the rank's own device"
_GPU_HANDLE = "it belongs to this process's GPU context; create it inside the function"
_SCREEN = "it is shown by the notebook's kernel only; send the values, and update it with what the function returns"

_TENSOR = Advice(
    lambda obj: f"a tensor on {obj.device}",
    _DEVICE,
    refused=True,
    applies=lambda o: _device(o) not in _DEVICES_THAT_TRAVEL,
)
_SHELL = Advice(
    "the notebook's IPython shell",
    "leave get_ipython() and lines that begin with % or ! out of the function",
    refused=True,
)
_OUTPUT = Advice("the notebook's output stream", "use print() or sys.stdout inside the function")
_OPEN = Advice(_file, _OPEN_FILE)

# By module and qualified name of a class; the object's own class is looked up first, then its bases.
_TABLE = {
    # threads and processes
    "_thread.lock": Advice("a thread lock", _LOCK),
    "_thread.RLock": Advice("a thread lock", _LOCK),
    "threading._RLock": Advice("a thread lock", _LOCK),
    "_thread._local": Advice("a thread-local variable", _LOCK),
    "threading.Condition": Advice("a thread condition", _LOCK),
    "threading.Event": Advice("a thread event", _LOCK),
    "threading.Semaphore": Advice("a thread semaphore", _LOCK),
    "threading.Barrier": Advice("a thread barrier", _LOCK),
    "threading.Thread": Advice("a thread", _STARTED),
    "queue.Queue": Advice("a queue between threads", _LOCK),
    "_queue.SimpleQueue": Advice("a queue between threads", _LOCK),
    "concurrent.futures._base.Executor": Advice("an executor", _STARTED),
    "concurrent.futures._base.Future": Advice("a future", "send its .result()"),
    "subprocess.Popen": Advice("a running program", _STARTED),
    "multiprocessing.process.BaseProcess": Advice("a process", _STARTED),
    "multiprocessing.pool.Pool": Advice("a process pool", _STARTED),
    "multiprocessing.queues.Queue": Advice("a multiprocessing queue", _SHARED),
    "multiprocessing.queues.SimpleQueue": Advice("a multiprocessing queue", _SHARED),
    "multiprocessing.synchronize.SemLock": Advice("a multiprocessing lock", _SHARED),
    "multiprocessing.synchronize.Condition": Advice("a multiprocessing condition", _SHARED),
    "multiprocessing.synchronize.Event": Advice("a multiprocessing event", _SHARED),
    # Its pickle holds the bare number of a descriptor, which is another file in the rank.
    "multiprocessing.connection._ConnectionBase": Advice("a multiprocessing connection", _SHARED, refused=True),
    # files and connections
    "_io.TextIOWrapper": _OPEN,
    "_io.BufferedReader": _OPEN,
    "_io.BufferedWriter": _OPEN,
    "_io.BufferedRandom": _OPEN,
    "_io.FileIO": _OPEN,
    "tempfile._TemporaryFileWrapper": _OPEN,
    "h5py._hl.base.HLObject": Advice("part of an open HDF5 file", _OPEN_FILE),
    "_socket.socket": Advice("a socket", _CONNECTION),
    "sqlite3.Connection": Advice("a database connection", _CONNECTION),
    "sqlite3.Cursor": Advice("a database cursor", _CONNECTION),
    # running code
    "builtins.generator": Advice("a generator", _ITERATOR),
    "builtins.async_generator": Advice("an async generator", _ITERATOR),
    "builtins.coroutine": Advice("a coroutine", "send its function and call that inside the function"),
    "builtins.frame": Advice("a frame of running code", "send the values that you need from it"),
    "builtins.traceback": Advice("a traceback", "send its text: traceback.format_exc()"),
    "_asyncio.Future": Advice("an asyncio future", _EVENT_LOOP),
    "_asyncio.Task": Advice("an asyncio task", _EVENT_LOOP),
    "asyncio.events.AbstractEventLoop": Advice("an event loop", _EVENT_LOOP),
    # references and memory
    "weakref.ReferenceType": Advice("a weak reference", "send the object itself"),
    "weakref.WeakKeyDictionary": Advice("a dict of weak references", "send dict(...) of it"),
    "weakref.WeakValueDictionary": Advice("a dict of weak references", "send dict(...) of it"),
    "_ctypes._CData": Advice("a ctypes object that holds a pointer", "it is an address in this process; send bytes"),
    "_ctypes.CFuncPtr": Advice("a ctypes function", "load its library inside the function"),
    # Its pickle holds an address of this process.
    "ctypes.CDLL": Advice("a loaded library", "send its path and load it inside the function", refused=True),
    # the notebook
    "IPython.core.interactiveshell.InteractiveShell": _SHELL,
    "ipykernel.iostream.OutStream": _OUTPUT,
    "ipywidgets.widgets.widget.Widget": Advice("a widget", _SCREEN, refused=True),
    "tqdm.std.tqdm": Advice("a progress bar", "create it inside the function"),
    "logging.Handler": Advice("a logging handler", "add handlers inside the function; loggers travel by their name"),
    "notebook_accel.launch.run.Run": Advice("a run of this notebook", "send what its result() gives", refused=True),
    # torch
    "torch._subclasses.fake_tensor.FakeTensor": Advice("a fake tensor", "build it inside the function"),
    "torch.Tensor": _TENSOR,
    "torch._tensor.Tensor": _TENSOR,
    "torch.storage.UntypedStorage": _TENSOR,  # a TypedStorage holds one, and warns when asked for its device
    "torch.Stream": Advice("a stream of a device", _GPU_HANDLE, refused=True),
    "torch.Event": Advice("an event of a device", _GPU_HANDLE, refused=True),
    "torch.cuda.streams.Stream": Advice("a CUDA stream", _GPU_HANDLE, refused=True),
    "torch.cuda.streams.Event": Advice("a CUDA event", _GPU_HANDLE, refused=True),
    "torch.cuda.graphs.CUDAGraph": Advice("a CUDA graph", _GPU_HANDLE, refused=True),
    "torch.utils.data.dataloader._BaseDataLoaderIter": Advice(
        "the iterator of a DataLoader", "send the DataLoader and iterate inside the function"
    ),
    "torch.distributed.distributed_c10d.ProcessGroup": Advice(
        "a process group", "create it inside the function, where the ranks are", refused=True
    ),
    "torch.nn.parallel.distributed.DistributedDataParallel": Advice(
        "a DistributedDataParallel model", "send its .module and wrap it inside the function", refused=True
    ),
    "notebook_accel.core.accelerator.Accelerator": Advice("an Accelerator", _BUILD, refused=True),
    "accelerate.accelerator.Accelerator": Advice("an Accelerator", _BUILD, refused=True),
}
