"""What an object takes along when it is pickled, each part under the name by which a person knows it."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from notebook_accel.launch.advice import attempt
from notebook_accel.wire.by_name import CachedFunction

Kind = Literal["root", "variable", "default", "attribute", "item", "key", "member", "reduction", "self"]
CODE = (
    types.FunctionType,
    types.MethodType,
    functools.partial,
    functools.cached_property,
    CachedFunction,
    type,
    staticmethod,
    classmethod,
    property,
    types.CellType,
)
_WRAPPERS = (staticmethod, classmethod, property, types.CellType, types.MappingProxyType)
_WELL_KNOWN_NAMES = ("__self__", "__func__", "__wrapped__", "start", "stop", "step")
_PROTOCOL = 5
_LONGEST_KEY = 40
_LONGEST_PATH = 24  # steps
_SHOWN_AT_EACH_END = 8


class Step(NamedTuple):
    """How a part hangs on its owner, and its name."""

    kind: Kind
    name: object

    def __str__(self) -> str:
        """Give the step's text in a path."""
        forms = {
            "root": "{}",
            "variable": " -> {}",
            "default": " -> default of {}",
            "attribute": ".{}",
            "item": "[{}]",
            "key": " -> key of type {}",
            "member": " -> member of type {}",
            "reduction": ".__reduce__(){}",
            "self": "",
        }
        shown = _short(self.name) if self.kind == "item" else str(self.name)
        return forms[self.kind].format(shown)


class Part(NamedTuple):
    """One thing that travels with its owner."""

    step: Step
    value: object


def path_text(steps: Iterable[Step]) -> str:
    """Write a path, without the middle of a very long one."""
    texts = [text for step in steps if (text := str(step))]
    if len(texts) > _LONGEST_PATH:
        left_out = len(texts) - 2 * _SHOWN_AT_EACH_END
        texts[_SHOWN_AT_EACH_END:-_SHOWN_AT_EACH_END] = [f" ...({left_out} steps)... "]
    return "".join(texts)


def parts(obj: object, pickler: Any) -> list[Part]:
    """Give the parts of an object in the form in which ``pickler`` sends them; none where its own code fails.

    Args:
        obj: any object.
        pickler: a pickler that has pickled nothing, asked what it would do with the object.
    """
    return attempt(lambda o: list(_parts(o, pickler)), obj) or []


def _parts(obj: Any, pickler: Any) -> Iterator[Part]:
    kind = type(obj)
    if kind in (list, tuple):
        yield from _items(enumerate(obj))
    elif kind is dict:
        yield from _items(obj.items())
    elif isinstance(obj, (set, frozenset)):
        for member in obj:
            yield Part(Step("member", type(member).__name__), member)
        yield from _attributes(getattr(obj, "__dict__", {}))
    else:
        reduction = _reduction(obj, pickler)
        if isinstance(reduction, tuple):
            yield from _reduced(obj, (*reduction, *(None,) * (6 - len(reduction))))


def _reduction(obj: Any, pickler: Any) -> Any:
    """Ask for the reduction in the order in which a pickler does."""
    reduction = pickler.reducer_override(obj)
    if reduction is not NotImplemented:
        return reduction
    if isinstance(obj, (types.FunctionType, type)):
        return None  # sent as a name
    reduce = pickler.dispatch_table.get(type(obj))
    return reduce(obj) if reduce is not None else obj.__reduce_ex__(_PROTOCOL)


def _reduced(obj: Any, reduction: tuple[Any, ...]) -> Iterator[Part]:
    _, args, state, list_items, dict_items, _ = reduction
    if isinstance(obj, types.FunctionType):
        yield from _of_function(obj, state)
    elif isinstance(obj, type):
        yield from _of_class(obj, args, state)
    elif isinstance(obj, types.ModuleType):
        for argument in args:
            yield from _attributes(argument if isinstance(argument, dict) else {})
    elif isinstance(obj, functools.partial):
        yield from _attributes({"func": obj.func, "args": obj.args, "keywords": obj.keywords, **obj.__dict__})
    elif isinstance(obj, _WRAPPERS):
        yield from (Part(Step("self", ""), argument) for argument in args)
    else:
        yield from _arguments(obj, args)
        yield from _state(state)
        yield from _items(enumerate(list_items or ()))
        yield from _items(dict_items or ())


def _of_function(function: types.FunctionType, state: Any) -> Iterator[Part]:
    attributes, slots = state
    yield from _attributes({"__wrapped__": attributes["__wrapped__"]} if "__wrapped__" in attributes else {})
    code = function.__code__
    for name, cell in zip(code.co_freevars, slots.pop("__closure__") or (), strict=True):
        yield Part(Step("variable", name), cell)
    for name, value in slots.pop("__globals__").items():
        yield Part(Step("variable", name), value)
    defaults = slots.pop("__defaults__") or ()
    first = code.co_argcount - len(defaults)
    named = zip(code.co_varnames[first : code.co_argcount], defaults, strict=True)
    for name, value in (*named, *(slots.pop("__kwdefaults__") or {}).items()):
        yield Part(Step("default", name), value)
    yield from _attributes({**attributes, **slots})


def _of_class(cls: type, args: Any, state: Any) -> Iterator[Part]:
    yield Part(Step("attribute", "__class__"), type(cls))
    yield Part(Step("attribute", "__bases__"), cls.__bases__)
    for argument in args:  # the members of an enumeration
        yield from _attributes(argument if isinstance(argument, dict) else {})
    for attributes in state:
        yield from _attributes(attributes)


def _arguments(obj: Any, args: Any) -> Iterator[Part]:
    """Name what the object is rebuilt from by the attribute that holds it, if one does."""
    named = {id(value): name for name, value in _attribute_values(obj)}
    for i, argument in enumerate(args):
        if argument is type(obj):
            yield Part(Step("attribute", "__class__"), argument)
        elif id(argument) in named:
            yield Part(Step("attribute", named[id(argument)]), argument)
        elif isinstance(obj, BaseException):
            yield Part(Step("attribute", f"args[{i}]"), argument)
        elif type(argument) in (list, tuple, dict) and isinstance(obj, type(argument)):
            yield Part(Step("self", ""), argument)  # an instance of a subclass, rebuilt from its own content
        else:
            yield Part(Step("reduction", f"[1][{i}]"), argument)


def _attribute_values(obj: Any) -> Iterator[tuple[str, object]]:
    names = [*(attempt(vars, obj) or ()), *_WELL_KNOWN_NAMES, *(attempt(lambda o: type(o)._fields, obj) or ())]
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    missing = object()
    for name in names:
        value = attempt(lambda o, name=name: getattr(o, name, missing), obj)  # type: ignore[misc]  # bound per loop
        if value is not missing and value is not None:
            yield str(name), value


def _state(state: Any) -> Iterator[Part]:
    if isinstance(state, dict):
        yield from _attributes(state)
    elif isinstance(state, tuple) and len(state) == 2 and all(isinstance(half, (dict, type(None))) for half in state):  # noqa: PLR2004 - attributes and slots
        for half in state:
            yield from _attributes(half or {})
    elif state is not None:
        yield Part(Step("attribute", "__getstate__()"), state)


def _attributes(values: dict[Any, Any]) -> Iterator[Part]:
    for name, value in values.items():
        is_name = isinstance(name, str) and name.isidentifier()
        yield Part(Step("attribute", name) if is_name else Step("item", name), value)


def _items(pairs: Iterable[tuple[Any, Any]]) -> Iterator[Part]:
    for key, value in pairs:
        if not isinstance(key, (int, str)):
            yield Part(Step("key", type(key).__name__), key)
        yield Part(Step("item", key), value)


def _short(key: object) -> str:
    text = attempt(repr, key) or f"<{type(key).__name__}>"
    return text if len(text) <= _LONGEST_KEY else f"{text[: _LONGEST_KEY - 3]}..."
