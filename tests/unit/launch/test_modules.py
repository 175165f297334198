from __future__ import annotations

import importlib
import importlib.machinery
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from notebook_accel.errors import ConfigError
from notebook_accel.launch import modules
from notebook_accel.launch.job import Call, make_job
from notebook_accel.launch.modules import ModuleWatch, travelling_by_value
from notebook_accel.wire import parcel, pickling

Imported = Callable[[str, str], types.ModuleType]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder beside the notebook, from which modules are imported; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, source: str, age_seconds: float = 0.0) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    moment = time.time() - age_seconds
    os.utime(path, (moment, moment))
    importlib.invalidate_caches()


def imported(folder: Path, name: str, source: str, age_seconds: float = 10_000_000) -> types.ModuleType:
    write(folder / f"{name}.py", source, age_seconds)
    return importlib.import_module(name)


# ---- edited modules

SOURCE = """
import dataclasses, functools
RATE = 1
def logged(function):
    @functools.wraps(function)
    def wrapper(): return function()
    return wrapper
@logged
def scale(): return 2
class Net:
    def forward(self): return [i for i in range(3)]
    @staticmethod
    def make(): return Net()
    @property
    def size(self): return 1
    __call__ = lambda self: 1
@dataclasses.dataclass
class Config:
    rate: float = 0.1
"""


def test_nothing_is_said_about_modules_as_they_were_imported(folder: Path):
    watch = ModuleWatch()
    imported(folder, "own_old", SOURCE)
    imported(folder, "own_new", SOURCE, age_seconds=-1)
    assert watch.edited() == []
    assert watch.notices() == []
    assert set(watch._local) >= {"own_old", "own_new"}


def test_an_edit_between_two_launches(folder: Path):
    watch = ModuleWatch()
    imported(folder, "own", SOURCE)
    assert watch.notices() == []
    write(folder / "own.py", SOURCE.replace("RATE = 1", "RATE = 2"))
    for _ in range(2):
        (notice,) = watch.notices()
        assert notice == (
            "own.py was edited after this notebook imported it: the ranks import it as it is now, the notebook still "
            "has the old one; importlib.reload(own) or restart the kernel"
        )
    write(folder / "own.py", SOURCE)
    assert watch.notices() == [], "the file holds again what was imported"


def test_a_file_that_was_only_touched(folder: Path):
    watch = ModuleWatch()
    imported(folder, "own", SOURCE)
    assert watch.edited() == []
    os.utime(folder / "own.py")
    assert watch.edited() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 2", "return 3"),
        ("range(3)", "range(4)"),
        ("return Net()", "return Net"),
        ("def size(self): return 1", "def size(self): return 2"),
        ("def scale", "def renamed"),
        ("RATE = 1", "RATE = 1\n"),
        ("RATE = 1", "RATE = ("),
        ("RATE = 1", "RATE = 222"),
        ("RATE = 1", "RATE = True"),
        ("rate: float = 0.1", "rate: float = 0.2"),
        ("rate: float = 0.1", "rate: float = 0.1\ndef appended(): return RATE"),
    ],
)
def test_an_edit_before_the_first_launch(folder: Path, old: str, new: str):
    imported(folder, "own", SOURCE)
    write(folder / "own.py", SOURCE.replace(old, new), age_seconds=-1)
    watch = ModuleWatch()
    assert watch.edited() == ["own"]
    assert watch.edited() == ["own"]
    write(folder / "own.py", SOURCE, age_seconds=-2)
    assert watch.edited() == []


def test_a_file_that_was_only_touched_before_the_first_launch(folder: Path):
    imported(folder, "own", SOURCE)
    write(folder / "own.py", SOURCE, age_seconds=-1)
    watch = ModuleWatch()
    assert watch.edited() == []
    write(folder / "own.py", SOURCE.replace("RATE = 1", "RATE = 2"))
    assert watch.edited() == ["own"]


def import_elsewhere(folder: Path) -> None:
    """Let another process import the module, which replaces the bytecode of it."""
    subprocess.run([sys.executable, "-c", "import own"], check=True, cwd=folder)


def test_a_text_that_only_others_have_imported_is_not_taken_for_the_notebooks(folder: Path):
    imported(folder, "own", SOURCE)
    watch = ModuleWatch()
    write(folder / "own.py", SOURCE.replace("RATE = 1", "RATE = 2"), age_seconds=-1)
    assert watch.edited() == ["own"]
    import_elsewhere(folder)
    assert watch.edited() == ["own"]
    write(folder / "own.py", SOURCE, age_seconds=-2)
    assert watch.edited() == []
    write(folder / "own.py", SOURCE.replace("return 2", "return 3"), age_seconds=-3)
    import_elsewhere(folder)
    write(folder / "own.py", SOURCE, age_seconds=-4)
    assert watch.edited() == ModuleWatch().edited() == []


def test_bytecode_that_the_import_did_not_write_says_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write(folder / "own.py", SOURCE, 10_000_000)
    import_elsewhere(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    imported(folder, "own", SOURCE.replace("RATE = 1", "RATE = 2"), age_seconds=-1)
    assert sys.modules["own"].RATE == 2
    assert ModuleWatch().edited() == []


@pytest.mark.parametrize("content", [None, b"", bytes(16), bytes(15) + b"junk", b"\0\0\0\0\1" + bytes(30)])
def test_bytecode_that_cannot_be_read(folder: Path, content: bytes | None):
    module: Any = imported(folder, "own", SOURCE)
    bytecode = Path(module.__spec__.cached)
    bytecode.unlink()
    if content is not None:
        bytecode.write_bytes(content)
    write(folder / "own.py", SOURCE.replace("RATE = 1", "RATE = 2"), age_seconds=-1)
    assert ModuleWatch().edited() == []
    write(folder / "own.py", SOURCE.replace("return 2", "return 3"), age_seconds=-2)
    assert ModuleWatch().edited() == ["own"]


def test_reloading_makes_a_new_start(folder: Path):
    watch = ModuleWatch()
    module = imported(folder, "own", "def f(): return 1")
    assert watch.edited() == []
    spec = module.__spec__
    write(folder / "own.py", "def f(): return 2222")
    assert watch.edited() == ["own"]
    importlib.reload(module)
    assert module.__spec__ is not spec
    assert watch.edited() == []
    write(folder / "own.py", "def f(): return 3")
    assert watch.edited() == ["own"]


def test_autoreload_makes_a_new_start(folder: Path):
    autoreload = pytest.importorskip("IPython.extensions.autoreload")
    watch = ModuleWatch()
    module = imported(folder, "own", "def f(): return 1")
    assert watch.edited() == []
    write(folder / "own.py", "def f(): return 2222")
    autoreload.superreload(module)
    assert module.f() == 2222
    assert watch.edited() == []


def test_functions_put_into_a_module_are_not_its_own(folder: Path):
    module: Any = imported(folder, "own", SOURCE, age_seconds=-1)
    module.scale = lambda: 5
    module.Net.forward = write
    assert ModuleWatch().edited() == []


def test_modules_that_travel_by_value_are_not_spoken_of(folder: Path):
    watch = ModuleWatch()
    write(folder / "own_package" / "__init__.py", "", 10_000_000)
    write(folder / "own_package" / "part.py", "def f(): return 1", 10_000_000)
    part = importlib.import_module("own_package.part")
    assert watch.edited() == []
    write(folder / "own_package" / "part.py", "def f(): return 2")
    assert watch.edited() == ["own_package.part"]
    assert watch.notices("own_package") == []
    assert watch.notices(["own_package"]) == watch.notices([sys.modules["own_package"]]) == watch.notices([part]) == []
    assert len(watch.notices(["own"])) == 1


def test_a_file_that_is_gone(folder: Path):
    watch = ModuleWatch()
    imported(folder, "own", SOURCE)
    (folder / "own.py").unlink()
    assert watch.edited() == []
    watch = ModuleWatch()
    assert watch.edited() == []


def test_installed_modules_are_not_watched():
    watch = ModuleWatch()
    watch.edited()
    mine = Path(modules.__file__).parents[1]
    assert not {"os", "json", "pytest", "cloudpickle", "notebook_accel.errors"} & watch._local.keys()
    assert not any(Path(path).is_relative_to(mine) for path in watch._local.values())


def test_odd_entries_of_sys_modules(monkeypatch: pytest.MonkeyPatch):
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("it was loaded")

    monkeypatch.setitem(sys.modules, "odd_none", None)
    monkeypatch.setitem(sys.modules, "odd_object", object())  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "odd_file", types.ModuleType("odd_file"))
    vars(sys.modules["odd_file"])["__file__"] = 3
    lazy = Lazy("odd_lazy")
    types.ModuleType.__getattribute__(lazy, "__dict__")["__file__"] = "lazy.so"
    monkeypatch.setitem(sys.modules, "odd_lazy", lazy)
    assert ModuleWatch().edited() == []
    with travelling_by_value():
        pass


def test_a_second_look_opens_no_file(folder: Path):
    imported(folder, "own", SOURCE)
    watch = ModuleWatch()
    watch.edited()
    opened: list[object] = []
    listening = [True]
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" and listening else None)
    watch.edited()
    listening.clear()
    assert not [path for path in opened if str(folder) in str(path)]


# ---- by value


def in_memory(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType(name)
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def arrived(call: Call, *forgotten: str, by_value: Any = ()) -> Any:
    """Unpickle a call's job as a rank does that has never heard of some modules."""
    job = make_job(call, by_value)
    kept = {name: sys.modules.pop(name) for name in forgotten}
    try:
        return pickling.loads(parcel.read(job.files[0]))
    finally:
        sys.modules.update(kept)
        job.close()


def test_a_module_without_a_file_travels_by_value(monkeypatch: pytest.MonkeyPatch):
    source = "K = 3\ndef f(x): return g(x) + K\ndef g(x): return x\nclass C:\n    def m(self): return f(1)"
    module = in_memory("made_in_memory", source, monkeypatch)
    before = cloudpickle.list_registry_pickle_by_value()
    function, (instance, whole), _ = arrived(Call(module.f, (module.C(), module)), "made_in_memory")
    assert function(1) == 4
    assert instance.m() == 4
    assert whole.f(2) == 5
    assert cloudpickle.list_registry_pickle_by_value() == before


def test_submodules_of_a_module_without_a_file(monkeypatch: pytest.MonkeyPatch):
    in_memory("made_package", "", monkeypatch)
    part = in_memory("made_package.part", "def f(): return 7", monkeypatch)
    function, _, _ = arrived(Call(part.f), "made_package", "made_package.part")
    assert function() == 7


def test_which_modules_have_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "spacious").mkdir()
    importlib.import_module("spacious")  # a namespace package
    imported(folder, "filed", "")
    in_memory("made_in_memory", "", monkeypatch)
    in_memory("filed.part", "", monkeypatch)
    in_memory("_cython_3_0_0", "", monkeypatch)
    in_memory("known_as", "", monkeypatch).__name__ = "made_elsewhere"
    names = {module.__name__ for module in modules._without_file()}
    assert "made_in_memory" in names
    assert not names & {
        "spacious",
        "filed",
        "filed.part",
        "made_elsewhere",
        "_cython_3_0_0",
        "builtins",
        "sys",
        "zipimport",
        "__main__",
    }


@pytest.mark.parametrize("named", ["own", ["own"], ("own",)])
def test_a_named_module_travels_as_it_is_here(folder: Path, named: Any):
    module: Any = imported(folder, "own", "K = 1\ndef f(): return K\ndef g(): return own_f()\nown_f = f")
    module.K = 2
    function, _, _ = arrived(Call(module.f), "own", by_value=named)
    assert function() == 2
    function, (whole,), _ = arrived(Call(module.g, (module,)), "own", by_value=[module])
    assert function() == 2
    assert whole.f() == 2


def test_a_named_package_brings_its_submodules(folder: Path):
    write(folder / "own_package" / "__init__.py", "")
    write(folder / "own_package" / "part.py", "def f(): return 1")
    part = importlib.import_module("own_package.part")
    function, _, _ = arrived(Call(part.f), "own_package", "own_package.part", by_value=["own_package"])
    assert function() == 1


def test_what_the_user_registered_stays_registered(folder: Path):
    module = imported(folder, "own", "def f(): return 1")
    cloudpickle.register_pickle_by_value(module)
    try:
        with travelling_by_value([module]):
            assert "own" in cloudpickle.list_registry_pickle_by_value()
        assert "own" in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_the_registry_is_restored_after_errors(folder: Path):
    module = imported(folder, "own", "def f(): return 1")
    before = cloudpickle.list_registry_pickle_by_value()
    with pytest.raises(ZeroDivisionError), travelling_by_value([module]):
        cloudpickle.unregister_pickle_by_value(module)
        raise ZeroDivisionError
    assert cloudpickle.list_registry_pickle_by_value() == before


@pytest.mark.parametrize(
    ("named", "message", "hint"),
    [
        (["no_such_module"], "'no_such_module', which is not imported", "import no_such_module first"),
        ([3], "holds 3, which is no module", "modules or their names"),
        ([types.ModuleType("unregistered")], "'unregistered', which is not in sys.modules", "anyway"),
    ],
)
def test_what_by_value_may_not_hold(named: Any, message: str, hint: str):
    with pytest.raises(ConfigError, match=message) as caught:
        make_job(Call(len), named)
    assert hint in caught.value.hint


def test_a_named_module_is_searched_for_what_cannot_travel(folder: Path):
    module: Any = imported(folder, "own", "import threading\nlock = threading.Lock()\ndef f(): return lock")
    make_job(Call(module.f)).close()
    with pytest.raises(TypeError, match=r"f -> lock \(a thread lock\)"):
        make_job(Call(module.f), ["own"])
    with pytest.raises(TypeError, match=r"args\[0\].lock \(a thread lock\)"):
        make_job(Call(len, (module,)), ["own"])


def test_a_module_loaded_from_nowhere_has_a_spec_without_a_loader(monkeypatch: pytest.MonkeyPatch):
    module = in_memory("made_in_memory", "", monkeypatch)
    module.__spec__ = importlib.machinery.ModuleSpec("made_in_memory", None)
    assert module in modules._without_file()
