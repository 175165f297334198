"""The notebook's own modules: which of them travel by value, and which were edited after they were imported.

A rank imports a module from its file. A module that has none travels by value without being asked, as
do those that the user names. cloudpickle sets the limits: functions and classes of such a module find each other and
its variables, and the module itself travels where the function uses it by a variable; but an ``import`` statement
inside the function still looks for a file, so the ranks fail there when there is none. A class's variables that change
in a rank change in the rank's copy only.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.machinery
import inspect
import marshal
import os
import struct
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from notebook_accel.errors import ConfigError

_CLOCK_SLACK_NS = 1_000_000_000  # the system's clock and the start of a process are known this well
_BYTECODE_START = 16  # behind the magic number, the flags, and the source's time and size
_32_BITS = 0xFFFFFFFF
_INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})
_MADE_BY_EXTENSIONS = ("cython_runtime", "_cython_")  # in memory, and again by the same extension in the ranks
_MAIN = frozenset({"__main__", "__mp_main__"})


# ---- by value


@contextmanager
def travelling_by_value(named: Sequence[str | types.ModuleType] = ()) -> Iterator[None]:
    """Let whole modules travel by value for the duration of a block.

    Args:
        named: modules or their names, submodules included; those that have no file are taken without being named.

    Raises:
        ConfigError: a name is no imported module.
    """
    modules = [*map(_imported, _each(named)), *_without_file()]
    already = cloudpickle.list_registry_pickle_by_value()
    added = {module.__name__: module for module in modules if module.__name__ not in already}
    for module in added.values():
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for name in added.keys() & cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(added[name])


def _each(named: Sequence[str | types.ModuleType]) -> Sequence[str | types.ModuleType]:
    """Take a single module for a list of one: a string is a sequence too, of letters."""
    return [named] if isinstance(named, (str, types.ModuleType)) else named


def _imported(named: object) -> types.ModuleType:
    module = sys.modules.get(named) if isinstance(named, str) else named
    if isinstance(named, (str, types.ModuleType)) and not isinstance(module, types.ModuleType):
        raise ConfigError(
            f"by_value names {named!r}, which is not imported", f"import {named} first, or correct the name"
        )
    if not isinstance(module, types.ModuleType):
        raise ConfigError(f"by_value holds {named!r}, which is no module", "give modules or their names")
    if module.__name__ not in sys.modules:
        what = f"by_value holds the module {module.__name__!r}, which is not in sys.modules"
        raise ConfigError(what, "leave it out: what is not in sys.modules travels by value anyway")
    return module


def _without_file() -> list[types.ModuleType]:
    """Give the top-level modules that were made in memory; cloudpickle takes their submodules along."""
    return [module for name, module in list(sys.modules.items()) if "." not in name and _made_in_memory(name, module)]


def _made_in_memory(name: str, module: object) -> bool:
    if name in _MAIN or name.startswith(_MADE_BY_EXTENSIONS) or not isinstance(module, types.ModuleType):
        return False
    names = _names(module)
    if names.get("__file__") is not None or names.get("__name__") != name:
        return False
    spec = names.get("__spec__")  # namespace packages have no loader on old Pythons, but they have places to look in
    return spec is None or (
        getattr(spec, "loader", None) is None and getattr(spec, "submodule_search_locations", None) is None
    )


def _names(module: types.ModuleType) -> dict[str, Any]:
    """Give a module's names without loading it if it is a lazy one."""
    names: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return names


# ---- edited


@dataclass(frozen=True)
class _Sight:
    """A module's file as it was when a launch looked at it.

    Attributes:
        spec: made anew whenever the module is loaded again.
        mtime_ns: when the file was written last.
        size: its bytes.
        imported: digest of the text that this process has imported; None where that text is not known.
        code: what that text was compiled to, where it was found although the text is not known.
        edited: whether the file holds another text.
    """

    spec: object
    mtime_ns: int
    size: int
    imported: bytes | None
    code: types.CodeType | None
    edited: bool


class ModuleWatch:
    """Knows which of the notebook's own modules were edited after this process imported them.

    Python does not note when it imported a module, so each is remembered when a launch first sees it. One that is
    seen for the first time after its file changed is compared with the file, function by function, and as a whole
    where Python still has the bytecode of the import. Where it has not, an edit before the first launch that changes
    only values of variables, or appends functions, is not noticed.
    ``importlib.reload`` and ``%autoreload`` give a module a new spec, with which the watch starts anew.

    Example:
        >>> ModuleWatch().notices()
        []
    """

    def __init__(self) -> None:
        self._classified: set[str] = set()
        self._local: dict[str, str] = {}
        self._sights: dict[str, _Sight] = {}
        self._installed: tuple[str, ...] = _installed_folders()

    def edited(self) -> list[str]:
        """Give the names of the modules that differ from their files now."""
        for name in sys.modules.keys() - self._classified:
            self._classify(name)
        return [name for name in sorted(self._local) if self._is_edited(name)]

    def notices(self, by_value: Sequence[str | types.ModuleType] = ()) -> list[str]:
        """Say what the ranks will not have as the notebook has it, a line for each module.

        Args:
            by_value: modules or names that travel as they are here, about which there is nothing to say.
        """
        sent = {named if isinstance(named, str) else named.__name__ for named in _each(by_value)}
        return [
            f"{Path(self._local[name]).name} was edited after this notebook imported it: the ranks import it as it is "
            f"now, the notebook still has the old one; importlib.reload({name}) or restart the kernel"
            for name in self.edited()
            if not any(name == parent or name.startswith(f"{parent}.") for parent in sent)
        ]

    def _classify(self, name: str) -> None:
        if name in _MAIN:
            return
        self._classified.add(name)
        module: object = sys.modules.get(name)
        path = _names(module).get("__file__") if isinstance(module, types.ModuleType) else None
        if isinstance(path, str) and path.endswith(".py") and not self._is_installed(path):
            self._local[name] = path

    def _is_installed(self, path: str) -> bool:
        return path.startswith(self._installed) or not _INSTALLED_FOLDERS.isdisjoint(Path(path).parts)

    def _is_edited(self, name: str) -> bool:
        module, path = sys.modules.get(name), self._local[name]
        try:
            status = Path(path).stat()
        except OSError:
            return False
        if not isinstance(module, types.ModuleType):
            return False
        sight, spec = self._sights.get(name), _names(module).get("__spec__")
        if sight is None or sight.spec is not spec:
            written_since = status.st_mtime_ns > _process_start_ns() - _CLOCK_SLACK_NS
            code = _imported_code(module, path, status) if written_since else None
            edited = written_since and _differs_from_file(module, path, code)
            imported = None if edited else _digest(path)
        elif (sight.mtime_ns, sight.size) != (status.st_mtime_ns, status.st_size):
            imported, code = sight.imported, sight.code
            edited = _differs_from_file(module, path, code) if imported is None else _digest(path) != imported
        else:
            return sight.edited
        self._sights[name] = _Sight(spec, status.st_mtime_ns, status.st_size, imported, code, edited)
        return edited


@functools.cache
def _process_start_ns() -> int:
    # Slow to import, though a Jupyter kernel has it already: only asked for when there is a module of the user's own.
    psutil = importlib.import_module("psutil")
    return int(psutil.Process().create_time() * 1e9)


def _digest(path: str) -> bytes:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError:
        return b""


def _installed_folders() -> tuple[str, ...]:
    """Give the folders of what is not the user's own: the standard library, installed packages, this package."""
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.add(str(Path(__file__).parents[1]))
    folders |= {os.path.realpath(folder) for folder in folders}
    return tuple(f"{folder}{os.sep}" for folder in folders)


def _imported_code(module: types.ModuleType, path: str, status: os.stat_result) -> types.CodeType | None:
    """Find what a module was compiled to before its file was written anew, in the bytecode that the import left.

    Args:
        module: as it was imported.
        path: its file.
        status: of the file as it is now.
    """
    cached = getattr(_names(module).get("__spec__"), "cached", None)
    if not isinstance(cached, str) or not _bytecode_is_written(cached):
        return None
    try:
        content = Path(cached).read_bytes()
        flags, mtime, size = struct.unpack_from("<4xIII", content)
        of_another_text = flags == 0 and (mtime, size) != (int(status.st_mtime) & _32_BITS, status.st_size & _32_BITS)
        code = marshal.loads(content[_BYTECODE_START:]) if of_another_text else None  # noqa: S302 - Python executes it
    except (OSError, ValueError, EOFError, TypeError, struct.error):
        return None
    # Another process may have written it, from a text that was never imported here.
    ours = isinstance(code, types.CodeType) and not _has_other_functions(module, path, code)
    return code if ours else None


def _bytecode_is_written(cached: str) -> bool:
    """Say whether an import would have replaced bytecode that is older than the text."""
    return not sys.dont_write_bytecode and os.access(Path(cached).parent, os.W_OK)


def _differs_from_file(module: types.ModuleType, path: str, imported: types.CodeType | None) -> bool:
    """Compare a module with what its file has now: all of its code where that is known, its functions elsewhere."""
    loader = getattr(_names(module).get("__spec__"), "loader", None)
    if not isinstance(loader, importlib.machinery.SourceFileLoader):
        return False  # a loader that changes the code as it loads it
    try:
        current = loader.source_to_code(Path(path).read_bytes(), path)
    except (OSError, SyntaxError, ValueError):
        return True  # the text that was imported could be compiled
    return _has_other_functions(module, path, current) if imported is None else current != imported


def _has_other_functions(module: types.ModuleType, path: str, code: types.CodeType) -> bool:
    expected: dict[str, list[types.CodeType]] = {}
    _collect(code, "", expected)
    return any(own not in expected.get(name, ()) for name, own in _own_code(module, path))


def _collect(code: types.CodeType, prefix: str, found: dict[str, list[types.CodeType]]) -> None:
    """Note the functions that stand at the top of a file and in its classes, by their qualified names."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_name.startswith("<generic parameters"):  # around a function or class with type parameters
                _collect(constant, prefix, found)
                continue
            name = f"{prefix}{constant.co_name}"
            found.setdefault(name, []).append(constant)
            if not constant.co_flags & inspect.CO_NEWLOCALS:  # the body of a class
                _collect(constant, f"{name}.", found)


def _own_code(module: types.ModuleType, path: str) -> Iterator[tuple[str, types.CodeType]]:
    """Give the code of a module's functions and of its classes' methods, by their qualified names."""
    waiting: list[object] = list(_names(module).values())
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, type):
            if value.__module__ == module.__name__:
                waiting += vars(value).values()
        elif isinstance(value, (staticmethod, classmethod)):
            waiting.append(value.__func__)
        elif isinstance(value, property):
            waiting += [value.fget, value.fset, value.fdel]
        elif isinstance(value, types.FunctionType):
            waiting.append(value.__dict__.get("__wrapped__"))
            code, name = value.__code__, value.__qualname__
            name = getattr(code, "co_qualname", name)  # the function's own may be that of the function it wraps
            own = "<" not in name and name.split(".")[-1] == code.co_name  # no lambda, none made by a function
            if own and code.co_filename == path:
                yield name, code
