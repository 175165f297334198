"""One collective for a whole structure of tensors, which finds out whether all ranks sent the same kind of thing.

Engines do not compare what the ranks send: differing shapes mix up numbers, hang, or end the process. So a message
begins with a digest of what it holds. All ranks send messages of one size: as large as what was sent last, which all of
them know. What fits in there needs no second message.

Shapes: ``W`` is the number of ranks, ``B`` one rank's rows.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.errors import ConfigError

Kind = tuple[str, tuple[int, ...], str]  # path, shape without rows, dtype
Leaf = tuple[str, Tensor]
_Sent = tuple[str, tuple[Kind, ...], "tuple[int, ...] | None"]  # by which verb, what, and how many rows

_HEAD = struct.Struct("=8sq")  # digest, bytes that follow
_LEAST_ROOM_BYTES = 512
_MOST_ROOM_BYTES = 1 << 20
_MOST_PLANS = 256
_NO_ROWS = -1


class Joined(NamedTuple):
    """One leaf of every rank.

    Attributes:
        tensor: the ranks' rows one after the other; of scalars, a row for each rank.
        rows: how many rows each rank gave; () of scalars.
    """

    tensor: Tensor
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Plan:
    """How leaves of certain shapes are sent.

    Attributes:
        verb: who asks.
        kinds: what has to be alike on all ranks.
        rows: of each leaf, ``_NO_ROWS`` of scalars.
        uneven: whether the ranks may have different numbers of rows.
        order: of the leaves in the message.
        begin: what the message begins with: the head, and the rows, packed.
        length: bytes of counts and leaves.
        places: of each leaf of each rank, in the order of the leaves, where all ranks have the same rows.
    """

    verb: str
    kinds: tuple[Kind, ...]
    rows: tuple[int, ...]
    uneven: bool
    order: tuple[int, ...]
    begin: bytes
    length: int
    places: tuple[_Place, ...]

    @property
    def sent(self) -> _Sent:
        """What the digest is of."""
        return self.verb, self.kinds, None if self.uneven else self.rows


class _Place(NamedTuple):
    """Where a leaf lies in each rank's message, in elements."""

    dtype: torch.dtype
    start: int
    end: int


def _plan(verb: str, leaves: Sequence[Leaf], *, uneven: bool) -> _Plan:
    tensors = [tensor for _, tensor in leaves]
    kinds = tuple(
        (path, tuple(tensor.shape[1:]) if tensor.ndim else (_NO_ROWS,), str(tensor.dtype)) for path, tensor in leaves
    )
    rows = tuple(tensor.shape[0] if tensor.ndim else _NO_ROWS for tensor in tensors)
    digest = hashlib.blake2b(repr((verb, kinds, None if uneven else rows)).encode(), digest_size=8).digest()
    # Filled up, so that what follows begins at a multiple of any element's size.
    counts = struct.pack(f"={len(rows)}q", *rows).ljust(-(-8 * len(rows) // _HEAD.size) * _HEAD.size, b"\0")
    length = len(counts) + sum(tensor.nbytes for tensor in tensors)
    # The largest elements first: then each leaf begins at a multiple of its element's size.
    order = sorted(range(len(tensors)), key=lambda number: -tensors[number].element_size())
    places: dict[int, _Place] = {}
    start = _HEAD.size + len(counts)
    for number in order:
        tensor = tensors[number]
        first, size = start // tensor.element_size(), tensor.numel()
        places[number] = _Place(tensor.dtype, first, first + size)
        start += tensor.nbytes
    in_order = tuple([places[number] for number in range(len(tensors))])
    return _Plan(verb, kinds, rows, uneven, tuple(order), _HEAD.pack(digest, length) + counts, length, in_order)


@dataclass(frozen=True, eq=False)
class _Route:
    """Where leaves lie in certain buffers.

    Attributes:
        plan: of their message.
        fits: whether they lie there; otherwise they are sent on their own.
        sent: views of each leaf's place in the message.
        received: the same in each rank's message, where all ranks send alike; of scalars ``(1,)``.
        rows: how many each rank gives then, for each leaf; () of scalars.
    """

    plan: _Plan
    fits: bool
    sent: list[Tensor]
    received: list[list[Tensor]]
    rows: list[tuple[int, ...]]


class _Buffers:
    """A message to send and the ranks' messages, in memory that Python and torch both see."""

    def __init__(self, room: int, world_size: int) -> None:
        self.room = -(-room // _HEAD.size) * _HEAD.size
        self.size = _HEAD.size + self.room
        self.sent = bytearray(self.size)
        self.received = bytearray(self.size * world_size)
        self.message = torch.frombuffer(self.sent, dtype=torch.uint8)
        self.messages = torch.frombuffer(self.received, dtype=torch.uint8)
        self.begun: _Plan | None = None  # whose head the message has
        self.routes: dict[object, _Route] = {}  # by what is sent

    def route(self, plan: _Plan, tensors: Sequence[Tensor]) -> _Route:
        """Give where each leaf lies in the message that is sent, and in each rank's message."""
        if plan.length > self.room:
            return _Route(plan, fits=False, sent=[], received=[], rows=[])
        ranks = len(self.received) // self.size
        places = list(zip(plan.places, tensors, strict=True))
        sent = [self.message.view(at.dtype)[at.start : at.end].view(leaf.shape) for at, leaf in places]
        received = [
            [row[at.start : at.end].view(leaf.shape or 1) for row in self.messages.view(at.dtype).view(ranks, -1)]
            for at, leaf in places
        ]
        rows = [() if count == _NO_ROWS else (count,) * ranks for count in plan.rows]
        return _Route(plan, fits=True, sent=sent, received=received, rows=rows)

    def begin(self, plan: _Plan) -> None:
        """Write what the message begins with."""
        self.begun = plan
        fits = len(plan.begin) <= self.size
        self.sent[: len(plan.begin) if fits else _HEAD.size] = plan.begin if fits else plan.begin[: _HEAD.size]

    def are_alike(self, begin: bytes) -> bool:
        """Tell whether every rank's message begins so."""
        for start in range(0, len(self.received), self.size):  # noqa: SIM110 - a generator costs as much as the rest
            if not self.received.startswith(begin, start):
                return False
        return True

    def heads(self) -> list[tuple[bytes, int]]:
        """Give every rank's digest and length."""
        return [_HEAD.unpack_from(self.received, start) for start in range(0, len(self.received), self.size)]


class Exchange:
    """Gathers structures of tensors.

    Args:
        backend: the connection to the other ranks.
        debug: compare what ranks send also where that makes the host wait for the device; False compares nothing but
            what may be uneven, None where it costs no wait.
    """

    def __init__(self, backend: Backend, *, debug: bool | None = None) -> None:
        self.backend = backend
        asked = backend.messages_in_host_memory if debug is None else debug
        self.checks = backend.world.world_size > 1 and asked
        self._alone = backend.world.world_size == 1
        self._buffers = _Buffers(_LEAST_ROOM_BYTES, backend.world.world_size)
        self._plans: dict[object, _Plan] = {}

    def gather(self, verb: str, leaves: Sequence[Leaf], *, uneven: bool = False) -> list[Joined]:
        """Join each leaf's rows over the ranks. Collective: all ranks must call this.

        Args:
            verb: who asks, for the message.
            leaves: tensors with their paths, in the same order on all ranks.
            uneven: let ranks have different numbers of rows.

        Shapes: ``(B, ...) -> (sum of B over the ranks, ...)``; ``() -> (W,)``; detached.

        Raises:
            ConfigError: shapes, dtypes or the structure differ between ranks.
        """
        if self._alone:
            return [_alone(tensor) for _, tensor in leaves]
        if not (self.checks or uneven):
            return [self._whole(tensor, None) for _, tensor in leaves]
        # From here on no call that is not needed: between two waits for other ranks each costs ten times what it does.
        key = (verb, uneven, *[(path, tensor.shape, tensor.dtype) for path, tensor in leaves])
        buffers = self._buffers
        route = buffers.routes.get(key)
        if route is None:
            route = self._new_route(key, verb, leaves, uneven=uneven)
        plan = route.plan
        if buffers.begun is not plan:
            buffers.begin(plan)
        if route.fits:
            for place, (_, tensor) in zip(route.sent, leaves):  # noqa: B905 - as many by the key
                place.copy_(tensor.detach() if tensor.requires_grad else tensor)
        self.backend.all_gather_bytes(buffers.messages, buffers.message)
        if route.fits and buffers.are_alike(plan.begin):
            joined = zip(route.received, route.rows, leaves)  # noqa: B905 - the same
            return [Joined(_back(torch.cat(views), leaf), rows) for views, rows, (_, leaf) in joined]
        return self._sorted_out(plan, [tensor for _, tensor in leaves])

    def compare(self, verb: str, leaves: Sequence[Leaf]) -> None:
        """Refuse leaves that are not alike on all ranks, where looking costs no wait. Collective: all must call this.

        Args:
            verb: who asks, for the message.
            leaves: tensors with their paths, in the same order on all ranks.

        Raises:
            ConfigError: shapes, dtypes or the structure differ between ranks.
        """
        if self.checks:
            key = (verb, False, *[(path, tensor.shape, tensor.dtype) for path, tensor in leaves])
            plan, buffers = self._plan_for(key, verb, leaves, uneven=False), self._buffers
            if buffers.begun is not plan:
                buffers.begin(plan)
            self.backend.all_gather_bytes(buffers.messages, buffers.message)
            self._compare(plan, buffers.heads())

    def _new_route(self, key: object, verb: str, leaves: Sequence[Leaf], *, uneven: bool) -> _Route:
        routes = self._buffers.routes
        if len(routes) >= _MOST_PLANS:
            routes.clear()
        plan = self._plan_for(key, verb, leaves, uneven=uneven)
        route = routes[key] = self._buffers.route(plan, [tensor for _, tensor in leaves])
        return route

    def _plan_for(self, key: object, verb: str, leaves: Sequence[Leaf], *, uneven: bool) -> _Plan:
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[key] = _plan(verb, leaves, uneven=uneven)
        return plan

    def _sorted_out(self, plan: _Plan, tensors: list[Tensor]) -> list[Joined]:
        """Join what is not alike on all ranks, or too large for the message."""
        buffers = self._buffers
        heads = buffers.heads()
        self._compare(plan, heads)
        longest = max(length for _, length in heads)
        every = self._counts(plan, buffers)
        if longest <= buffers.room:
            joined = _unpacked(buffers, plan, every, tensors)
        else:
            joined = [self._whole(tensor, [rows[number] for rows in every]) for number, tensor in enumerate(tensors)]
        wanted = longest if _LEAST_ROOM_BYTES < longest <= _MOST_ROOM_BYTES else _LEAST_ROOM_BYTES
        if not 0 <= buffers.room - wanted < _HEAD.size:
            self._buffers = _Buffers(wanted, self.backend.world.world_size)
        return joined

    def _compare(self, plan: _Plan, heads: Sequence[tuple[bytes, int]]) -> None:
        mine = plan.begin[:8]
        if any(digest != mine for digest, _ in heads):
            self._explain(plan)

    def _counts(self, plan: _Plan, buffers: _Buffers) -> list[tuple[int, ...]]:
        layout = struct.Struct(f"={len(plan.rows)}q")
        starts = range(_HEAD.size, len(buffers.received), buffers.size)
        if layout.size <= buffers.room:
            return [layout.unpack_from(buffers.received, start) for start in starts]
        rows: list[list[int]] = self.backend.all_gather(torch.tensor(plan.rows)).tolist()
        return [tuple(of_rank) for of_rank in rows]

    def _whole(self, tensor: Tensor, of_ranks: list[int] | None) -> Joined:
        """Send a leaf in a message of its own; numbers of rows that differ are known by now."""
        world_size = self.backend.world.world_size
        if of_ranks is None or len(set(of_ranks)) == 1:
            stacked = self.backend.all_gather(tensor)
            if not tensor.ndim:
                return Joined(stacked, ())
            return Joined(stacked.flatten(0, 1), (tensor.shape[0],) * world_size)
        padded = tensor.new_zeros((max(of_ranks), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor.detach()
        stacked = self.backend.all_gather(padded)
        return Joined(torch.cat([rows[:count] for rows, count in zip(stacked, of_ranks, strict=True)]), tuple(of_ranks))

    def _explain(self, plan: _Plan) -> NoReturn:
        others = self.backend.gather_object(plan.sent)
        rank = self.backend.world.rank
        other = next(number for number, theirs in enumerate(others) if theirs != plan.sent)
        what = _difference(rank, plan.sent, other, others[other])
        raise ConfigError(what, "make them alike on all ranks; pad_across_processes() evens out one dimension")


def _alone(tensor: Tensor) -> Joined:
    copy = tensor.detach().clone()
    return Joined(copy, (tensor.shape[0],)) if tensor.ndim else Joined(copy.unsqueeze(0), ())


def _back(values: Tensor, leaf: Tensor) -> Tensor:
    """Give what arrived on the device of what was sent."""
    return values if leaf.is_cpu else values.to(leaf.device)


def _unpacked(
    buffers: _Buffers, plan: _Plan, every: Sequence[Sequence[int]], tensors: Sequence[Tensor]
) -> list[Joined]:
    """Take the leaves out of messages with different numbers of rows."""
    messages = buffers.messages.view(len(every), buffers.size)
    starts = [len(plan.begin)] * len(every)
    found: dict[int, Joined] = {}
    for number in plan.order:
        tensor = tensors[number]
        of_ranks = tuple([rows[number] for rows in every])
        scalars = of_ranks[0] == _NO_ROWS
        row_bytes = tensor.element_size() * tensor.shape[1:].numel()
        sizes = [row_bytes if scalars else row_bytes * count for count in of_ranks]
        places = zip(messages, starts, sizes, strict=True)
        flat = torch.cat([row[start : start + size] for row, start, size in places])
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
        shape = (len(every),) if scalars else (sum(of_ranks), *tensor.shape[1:])
        values = flat.view(tensor.dtype).view(shape)
        found[number] = Joined(values.to(tensor.device), () if scalars else of_ranks)
    return [found[number] for number in range(len(tensors))]


def _difference(rank: int, mine: _Sent, other: int, theirs: _Sent) -> str:
    (my_verb, my_kinds, my_rows), (verb, kinds, rows) = mine, theirs
    if my_verb != verb:
        return f"rank {rank} is in {my_verb}(), but rank {other} in {verb}()"
    where = f"{my_verb}: rank {rank} and rank {other} sent different things"
    if len(my_kinds) != len(kinds):
        return f"{where}: {len(my_kinds)} and {len(kinds)} tensors"
    for number, (ours, its) in enumerate(zip(my_kinds, kinds, strict=True)):
        if ours[0] != its[0]:
            return f"{where}: {ours[0] or 'a tensor'} and {its[0] or 'a tensor'}"
        counts = (my_rows[number], rows[number]) if my_rows is not None and rows is not None else (None, None)
        if ours != its or counts[0] != counts[1]:
            at = f" at {ours[0]}" if ours[0] else ""
            return f"{where}{at}: {_shape(ours, counts[0])} and {_shape(its, counts[1])}"
    return where


def _shape(kind: Kind, rows: int | None) -> str:
    _, rest, dtype = kind
    if rest == (_NO_ROWS,):
        return f"a scalar of {dtype}"
    sizes = ["..." if rows is None else str(rows), *map(str, rest)]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''}) of {dtype}"
