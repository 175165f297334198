"""Objects that pickle sends as a bare name, to be looked up in their module on the other side.

A rank's ``__main__`` lacks the notebook's names, and a module that travels by value may be none over there. What can
be built again is sent with what it is made from: functions behind ``functools.lru_cache`` (with an empty cache) and
the names of ``typing``. Whatever else leads to such a name is refused, before a rank fails to find it.
"""

from __future__ import annotations

import functools
import pickle
import sys
import threading
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cloudpickle import cloudpickle as _internals

from notebook_accel.errors import PayloadError

Reduction = Callable[[Any], Any]
CachedFunction: type = type(functools.cache(len))
_MAIN = frozenset({"__main__", "__mp_main__"})
_ELSEWHERE = "define it in a module that the ranks can import, or let its __reduce__ return what it is built from"
_LOCK = type(threading.RLock())


class NameOnlyError(PayloadError):
    """An object is pickled as a name that the ranks do not have."""


class NamedObjects:
    """A reducer for objects that reduce themselves, of which some do so to a name.

    Args:
        dispatch_table: the pickler's own reductions by type, which come first.
        same_main: the other side has the names of this process's ``__main__``.
    """

    def __init__(self, dispatch_table: Mapping[type, Any], *, same_main: bool = False) -> None:
        self._dispatch_table = dispatch_table
        self._same_main = same_main
        self._by_type: dict[int, tuple[type, Reduction | None]] = {}  # by identity: a metaclass may forbid hashing

    def __call__(self, obj: object) -> Any:
        """Give the object's own reduction, or one in place of a name that is not found over there.

        Raises:
            NameOnlyError: the object is nothing but its name there.
        """
        kind = type(obj)
        known = self._by_type.get(id(kind))
        if known is None:
            known = self._by_type[id(kind)] = kind, self._reduction_for(kind)
        return NotImplemented if known[1] is None else known[1](obj)

    def _reduction_for(self, kind: type) -> Reduction | None:
        if any(kind is rebuilt for rebuilt in REBUILT):
            return self._reduce_rebuilt
        reduces_itself = any(not {"__reduce__", "__reduce_ex__"}.isdisjoint(cls.__dict__) for cls in kind.__mro__[:-1])
        if not reduces_itself:
            return _without_lock if issubclass(kind, functools.cached_property) else None
        return None if kind in self._dispatch_table else self._reduce_own

    def _reduce_rebuilt(self, obj: Any) -> Any:
        found = _internals._lookup_module_and_qualname(obj)  # noqa: SLF001 - no public way to ask
        if found is not None and not _travels_by_value(found[0]):
            return NotImplemented
        return NotImplemented if self._same_main and _is_in_main(obj) else REBUILT[type(obj)](obj)

    def _reduce_own(self, obj: Any) -> Any:
        reduction = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduction, str) and not self._same_main and _is_the_notebooks(obj):
            what = f"of type {type(obj).__name__}, which is pickled as the bare name {reduction} of this notebook"
            raise NameOnlyError(what, _ELSEWHERE)
        return reduction


def _travels_by_value(module: types.ModuleType) -> bool:
    return bool(_internals._is_registered_pickle_by_value(module))  # noqa: SLF001 - no public way to ask


def _is_in_main(obj: Any) -> bool:
    """Say whether this process's ``__main__`` has the object under its name."""
    found: Any = sys.modules["__main__"]
    for name in name_of(obj).split("."):
        found = getattr(found, name, None)
    return found is obj


def _is_the_notebooks(obj: object) -> bool:
    """Say whether the module that is to have the object's name is only here."""
    name = getattr(obj, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    made_here = module is not None and getattr(module, "__file__", None) is None and _travels_by_value(module)
    return name in _MAIN or made_here


def name_of(obj: Any) -> str:
    """Give the name under which an object of one of the types in ``REBUILT`` is looked up."""
    return str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", ""))


def _cached_function(obj: Any) -> Any:
    parameters = obj.cache_parameters()
    attributes = {name: value for name, value in vars(obj).items() if name != "cache_parameters"}
    return cached_function, (obj.__wrapped__, parameters["maxsize"], parameters["typed"]), attributes


def cached_function(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Put an empty cache around a function."""
    return functools.lru_cache(maxsize, typed)(function)


def _new_type(obj: Any) -> Any:
    return typing.NewType, (obj.__name__, obj.__supertype__), dict(vars(obj))


def _parameter_specification(obj: Any) -> Any:
    options = {"bound": obj.__bound__, "covariant": obj.__covariant__, "contravariant": obj.__contravariant__}
    return functools.partial(typing.ParamSpec, **options), (obj.__name__,), (None, {"__module__": obj.__module__})


def _type_variable_tuple(obj: Any) -> Any:
    return vars(typing)["TypeVarTuple"], (obj.__name__,), (None, {"__module__": obj.__module__})


def _type_alias(obj: Any) -> Any:
    return type_alias, (obj.__name__, obj.__value__, obj.__type_params__)


def type_alias(name: str, value: object, parameters: tuple[Any, ...]) -> Any:
    """Make what a ``type`` statement makes."""
    return vars(typing)["TypeAliasType"](name, value, type_params=parameters)


# By exact type; the later ones are not in every Python.
REBUILT: dict[type, Reduction] = {
    CachedFunction: _cached_function,
    typing.NewType: _new_type,
    typing.ParamSpec: _parameter_specification,
}
for _name, _reduction in (("TypeVarTuple", _type_variable_tuple), ("TypeAliasType", _type_alias)):
    if hasattr(typing, _name):
        REBUILT[getattr(typing, _name)] = _reduction


def _without_lock(obj: Any) -> Any:
    """Reduce a ``cached_property`` without the lock that it has before Python 3.12."""
    attributes = vars(obj)
    if type(attributes.get("lock")) is not _LOCK:
        return NotImplemented
    return locked_property, (type(obj),), {name: value for name, value in attributes.items() if name != "lock"}


def locked_property(cls: Any) -> Any:
    """Make an empty ``cached_property`` with a lock of its own."""
    made = cls.__new__(cls)
    made.lock = threading.RLock()
    return made
