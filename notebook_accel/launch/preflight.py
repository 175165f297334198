"""Before anything starts: what cannot travel, named by its path from the function, and what is large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import cloudpickle

from notebook_accel.errors import PayloadError
from notebook_accel.launch.advice import RefusedError, advice_for, attempt
from notebook_accel.launch.anatomy import CODE, Part, Step, parts, path_text
from notebook_accel.wire.by_name import NameOnlyError
from notebook_accel.wire.pickling import JobPickler, Reducer

LARGE_JOB_BYTES = 100_000_000
_MOST_NAMED = 3
_SMALLEST_NAMED_SHARE = 0.1  # of the job
_DOMINANT_SHARE = 0.8  # of the owner
_VIEW_RATIO = 2  # a storage this many times the view's size is worth a word
_MOST_STEPS = 2000
_CONTAINERS = (dict, list, tuple, set, frozenset)
_ANYWHERE = "create it inside the function, where each rank makes its own"
_TOO_DEEP = "flatten it, or send what it is made from and build it inside the function"
_ONCE_FOR_ALL = 'share(obj) copies it once for many launches; start_method="fork" copies nothing'
_UNITS = ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "KB"), (1, "bytes"))
_Path = tuple[Step, ...]


class _Scale(JobPickler):
    """A pickler that keeps nothing and knows how much it was given.

    Args:
        reducers: those of the job's pickler.
        left_out: objects that are not pickled again, such as the owners of a part, to which it may lead back.
    """

    def __init__(self, reducers: Sequence[Reducer], left_out: Sequence[object] = ()) -> None:
        super().__init__(reducers)
        self.total_bytes = 0
        cloudpickle.Pickler.__init__(self, self, protocol=5, buffer_callback=self._keep_out)
        self.memo = {id(obj): (i, obj) for i, obj in enumerate(left_out)}

    def write(self, data: bytes) -> int:
        """Stand for the file that is written to."""
        self.total_bytes += len(data)
        return len(data)

    def _keep_out(self, buffer: Any) -> bool:
        self.total_bytes += buffer.raw().nbytes
        return False


class Preflight:
    """Looks into what would travel.

    Args:
        name: how the whole is called in messages.
        roots: what travels, each thing under the name with which its paths begin.
        reducers: those of the job's pickler.
    """

    def __init__(self, name: str, roots: Iterable[tuple[str, object]], reducers: Iterable[Reducer] = ()) -> None:
        self._name = name
        self._reducers = tuple(reducers)
        self._roots = [Part(Step("root", root), value) for root, value in roots]

    def refusal(self, original: Exception) -> PayloadError:
        """Say which object made the pickling fail, where it is, and what to do about it.

        Args:
            original: the error of the pickling.
        """
        steps: list[Step] = []
        owners: list[object] = []
        error: Exception = original
        candidates = self._roots
        while len(steps) < _MOST_STEPS and (found := self._first_failing(candidates, owners)) is not None:
            part, error = found
            steps.append(part.step)
            owners.append(part.value)
            if advice_for(part.value) is not None or (_is_too_deep(error) and not isinstance(part.value, CODE)):
                break
            candidates = self._parts_of(part.value)
        return self._message(path_text(steps) or self._name, owners[-1] if owners else None, error)

    def large_captures(self, total_bytes: int) -> list[str]:
        """Say what makes a job large, where it is, and what to do about it; nothing for a small one.

        Args:
            total_bytes: size of the pickled job.
        """
        if total_bytes < LARGE_JOB_BYTES:
            return []
        code: list[object] = []
        found = [(self._size([value], code), path, value) for path, value in list(self._data(code))]
        found = [entry for entry in found if entry[0] >= _SMALLEST_NAMED_SHARE * total_bytes]
        specific = [self._most_specific(*entry, code) for entry in sorted(found, key=lambda entry: -entry[0])]
        once = {id(value): (size, path, value) for size, path, value in reversed(specific)}
        named = [_described(*entry) for entry in sorted(once.values(), key=lambda entry: -entry[0])[:_MOST_NAMED]]
        where = ": " + "; ".join(named) if named else ", in many small parts"
        return [f"{_size_text(total_bytes)} travel to the ranks{where}", _ONCE_FOR_ALL]

    def _parts_of(self, obj: object) -> list[Part]:
        return parts(obj, _Scale(self._reducers))

    def _first_failing(self, candidates: list[Part], owners: list[object]) -> tuple[Part, Exception] | None:
        """Halve the candidates until one is left: each of them is pickled twice in all, however many there are."""
        error = self._failure(candidates, owners)
        if error is None:
            return None
        while len(candidates) > 1:
            middle = len(candidates) // 2
            first_error = self._failure(candidates[:middle], owners)
            candidates = candidates[middle:] if first_error is None else candidates[:middle]
            error = first_error or error
        return candidates[0], self._failure(candidates, owners) or error

    def _failure(self, candidates: list[Part], owners: list[object]) -> Exception | None:
        scale = _Scale(self._reducers, owners)
        try:
            scale.dump([part.value for part in candidates])
        except Exception as error:  # noqa: BLE001 - pickling runs the user's own code
            return error
        finally:
            scale.clear_memo()  # it would keep what it has seen alive
        return None

    def _message(self, path: str, culprit: object, error: Exception) -> PayloadError:
        advice = advice_for(culprit)
        words, hint = f"of type {type(culprit).__name__}", _TOO_DEEP if _is_too_deep(error) else _ANYWHERE
        if advice is not None:
            words, hint = advice.describe(culprit), advice.do
        elif isinstance(error, NameOnlyError):
            words, hint = error.what, error.hint
        what = f"{self._name} cannot be sent to the ranks because of {path} ({words})"
        if not isinstance(error, (RefusedError, NameOnlyError)):
            lines = (attempt(str, error) or "").splitlines()
            what += f": {type(error).__name__}: {lines[0] if lines else 'without a message'}"
        return PayloadError(what, hint)

    def _data(self, code: list[object]) -> Iterator[tuple[_Path, object]]:
        """Give everything but code that code leads to, and note the code."""
        waiting: list[tuple[_Path, object]] = [((part.step,), part.value) for part in reversed(self._roots)]
        seen: set[int] = set()
        while waiting:
            path, value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, CODE):
                code.append(value)
                waiting += [((*path, part.step), part.value) for part in reversed(self._parts_of(value))]
            else:
                yield path, value

    def _size(self, values: Sequence[object], left_out: Sequence[object]) -> int:
        scale = _Scale(self._reducers, left_out)
        with suppress(Exception):  # the job was pickled; what fails now counts as far as it came
            scale.dump(list(values))
        scale.clear_memo()
        return scale.total_bytes

    def _most_specific(self, size: int, path: _Path, value: object, code: list[object]) -> tuple[int, _Path, object]:
        """Follow the part that makes up most of its owner, for as long as there is one."""
        owners = [*code, value]
        while (found := self._dominant(value, size, owners)) is not None and len(path) < _MOST_STEPS:
            part, size = found
            path, value = (*path, part.step), part.value
            owners.append(value)
        return size, path, value

    def _dominant(self, owner: object, size: int, owners: list[object]) -> tuple[Part, int] | None:
        candidates = [part for part in self._parts_of(owner) if self._is_known_by_name(owner, part.step)]
        enough = _DOMINANT_SHARE * size
        share = self._size([part.value for part in candidates], owners) if candidates else 0
        while len(candidates) > 1 and share >= enough:
            middle = len(candidates) // 2
            halves = [candidates[:middle], candidates[middle:]]
            sizes = [self._size([part.value for part in half], owners) for half in halves]
            share = max(sizes)
            candidates = halves[sizes.index(share)]
        return (candidates[0], share) if candidates and share >= enough else None

    def _is_known_by_name(self, owner: object, step: Step) -> bool:
        """Leave out the insides of arrays, tables and models: a person knows those as a whole."""
        if isinstance(owner, _CONTAINERS):
            return step.kind in {"item", "self", "attribute"}
        return step.kind == "attribute" and (not str(step.name).startswith("_") or bool(self._parts_of(type(owner))))


def _is_too_deep(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


def _described(size: int, path: _Path, value: object) -> str:
    text = f"{path_text(path)}: {_size_text(size)}"
    own, storage = attempt(_view_bytes, value) or (0, 0)
    if own and storage >= _VIEW_RATIO * own:
        text += f" (a view of {_size_text(own)} that brings its whole storage; send .clone() of it)"
    return text


def _view_bytes(value: Any) -> tuple[int, int]:
    """Give the bytes of a tensor's elements and of its storage; a NumPy view travels without the rest of its array."""
    if not any(
        f"{cls.__module__}.{cls.__qualname__}" in {"torch.Tensor", "torch._tensor.Tensor"}
        for cls in type(value).__mro__
    ):
        return 0, 0
    return value.numel() * value.element_size(), value.untyped_storage().nbytes()


def _size_text(size: int) -> str:
    unit, name = next((unit, name) for unit, name in _UNITS if size >= unit or unit == 1)
    return f"{size / unit:.1f} {name}" if unit == _UNITS[0][0] else f"{size / unit:.0f} {name}"
