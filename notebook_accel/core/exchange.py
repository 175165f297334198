"""One collective for a whole structure of tensors, which finds out whether all ranks sent the same kind of thing.

Engines do not compare what the ranks send: differing shapes mix up numbers, hang, or end the process. So a message
begins with a digest of what it holds. All ranks send messages of one size: as large as what was sent last, which all of
them know. What fits in there needs no second message.

Shapes: ``W`` is the number of ranks, ``B`` one rank's rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from notebook_accel.backends.base import Backend
from notebook_accel.errors import ConfigError

Kind = tuple[str, tuple[int, ...], str]  # path, shape without rows, dtype
Sent = tuple[str, tuple[Kind, ...], "tuple[int, ...] | None"]  # by which verb, what, and how many rows

_HEAD_BYTES = 16
_LEAST_ROOM_BYTES = 4096
_MOST_ROOM_BYTES = 1 << 20
_NO_ROWS = -1


@dataclass(frozen=True)
class Joined:
    """One leaf of every rank.

    Attributes:
        tensor: the ranks' rows one after the other; of scalars, a row for each rank.
        rows: how many rows each rank gave; () of scalars.
    """

    tensor: Tensor
    rows: tuple[int, ...]


class Exchange:
    """Gathers structures of tensors.

    Args:
        backend: the connection to the other ranks.
        debug: compare also where that makes the host wait for the device.
    """

    def __init__(self, backend: Backend, *, debug: bool = False) -> None:
        self.backend = backend
        self._room = _LEAST_ROOM_BYTES
        self.checks = backend.world.world_size > 1 and (debug or backend.messages_in_host_memory)

    def gather(self, verb: str, leaves: Sequence[tuple[str, Tensor]], *, uneven: bool = False) -> list[Joined]:
        """Join each leaf's rows over the ranks. Collective: all ranks must call this.

        Args:
            verb: who asks, for the message.
            leaves: tensors with their paths, in the same order on all ranks.
            uneven: let ranks have different numbers of rows.

        Shapes: ``(B, ...) -> (sum of B over the ranks, ...)``; ``() -> (W,)``; detached.

        Raises:
            ConfigError: shapes, dtypes or the structure differ between ranks.
        """
        tensors = [tensor.detach().resolve_conj().resolve_neg() for _, tensor in leaves]
        if self.backend.world.world_size == 1:
            return [_alone(tensor) for tensor in tensors]
        if not (self.checks or uneven):
            return [self._unchecked(tensor) for tensor in tensors]
        kinds, rows = _kinds(leaves)
        return self._checked(verb, kinds, rows, tensors, uneven=uneven)

    def compare(self, verb: str, leaves: Sequence[tuple[str, Tensor]]) -> None:
        """Refuse leaves that are not alike on all ranks, where looking costs no wait. Collective: all must call this.

        Args:
            verb: who asks, for the message.
            leaves: tensors with their paths, in the same order on all ranks.

        Raises:
            ConfigError: shapes, dtypes or the structure differ between ranks.
        """
        if not self.checks:
            return
        kinds, rows = _kinds(leaves)
        mine = _head(verb, kinds, rows).view(torch.int64)
        if bool((self.backend.all_gather(mine.to(self.backend.message_device)) != mine).any()):
            self._explain(verb, kinds, rows, uneven=False)

    def _unchecked(self, tensor: Tensor) -> Joined:
        stacked = self.backend.all_gather(tensor)
        if not tensor.ndim:
            return Joined(stacked, ())
        return Joined(stacked.flatten(0, 1), (tensor.shape[0],) * self.backend.world.world_size)

    def _checked(
        self, verb: str, kinds: tuple[Kind, ...], rows: list[int], tensors: list[Tensor], *, uneven: bool
    ) -> list[Joined]:
        device = self.backend.message_device
        # The largest elements first: then each leaf begins at a multiple of its element's size.
        order = sorted(range(len(tensors)), key=lambda number: -tensors[number].element_size())
        counts = _bytes_of(torch.tensor(rows, dtype=torch.int64, device=device))
        length = counts.numel() + sum(tensor.nbytes for tensor in tensors)
        parts = [counts]
        if length <= self._room:
            parts += [_bytes_of(tensors[number]).to(device) for number in order]
        gathered = self.backend.all_gather(self._message(_head(verb, kinds, None if uneven else rows), length, parts))
        heads = gathered[:, :_HEAD_BYTES].contiguous().view(torch.int64).tolist()
        if any(digest != heads[0][0] for digest, _ in heads):
            self._explain(verb, kinds, rows, uneven=uneven)
        longest, room = max(length for _, length in heads), self._room
        self._room = longest if _LEAST_ROOM_BYTES < longest <= _MOST_ROOM_BYTES else _LEAST_ROOM_BYTES
        body = gathered[:, _HEAD_BYTES:]
        if counts.numel() > room:
            body = self.backend.all_gather(counts)
        every: list[list[int]] = body[:, : counts.numel()].contiguous().view(torch.int64).tolist()
        if longest <= room:
            return _unpacked(body[:, counts.numel() :], every, order, tensors)
        return [self._alone(tensor, [row[number] for row in every]) for number, tensor in enumerate(tensors)]

    def _message(self, digest: Tensor, length: int, parts: list[Tensor]) -> Tensor:
        device = self.backend.message_device
        message = torch.empty(_HEAD_BYTES + self._room, dtype=torch.uint8, device=device)
        head = torch.cat([digest, _bytes_of(torch.tensor(length, dtype=torch.int64))])
        message[:_HEAD_BYTES] = head.to(device)
        end = _HEAD_BYTES
        for part in parts:
            if end + part.numel() <= message.numel():  # the counts of very many leaves are sent later
                message[end : end + part.numel()] = part
                end += part.numel()
        return message

    def _alone(self, tensor: Tensor, of_ranks: list[int]) -> Joined:
        """Send a leaf in a message of its own, whose size all ranks know by now."""
        if of_ranks[0] == _NO_ROWS or len(set(of_ranks)) == 1:
            return self._unchecked(tensor)
        padded = tensor.new_zeros((max(of_ranks), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        stacked = self.backend.all_gather(padded)
        return Joined(torch.cat([rows[:count] for rows, count in zip(stacked, of_ranks, strict=True)]), tuple(of_ranks))

    def _explain(self, verb: str, kinds: tuple[Kind, ...], rows: list[int], *, uneven: bool) -> NoReturn:
        mine = (verb, kinds, None if uneven else tuple(rows))
        others = self.backend.gather_object(mine)
        rank = self.backend.world.rank
        other = next(number for number, theirs in enumerate(others) if theirs != mine)
        what = _difference(rank, mine, other, others[other])
        raise ConfigError(what, "make them alike on all ranks; pad_across_processes() evens out one dimension")


def _alone(tensor: Tensor) -> Joined:
    copy = tensor.clone()
    return Joined(copy, (tensor.shape[0],)) if tensor.ndim else Joined(copy.unsqueeze(0), ())


def _kinds(leaves: Sequence[tuple[str, Tensor]]) -> tuple[tuple[Kind, ...], list[int]]:
    kinds = tuple(
        (path, tuple(tensor.shape[1:]) if tensor.ndim else (_NO_ROWS,), str(tensor.dtype)) for path, tensor in leaves
    )
    return kinds, [tensor.shape[0] if tensor.ndim else _NO_ROWS for _, tensor in leaves]


def _head(verb: str, kinds: tuple[Kind, ...], rows: list[int] | None) -> Tensor:
    digest = hashlib.blake2b(repr((verb, kinds, rows)).encode(), digest_size=8).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def _unpacked(body: Tensor, every: list[list[int]], order: list[int], tensors: list[Tensor]) -> list[Joined]:
    """Take the leaves out of the ranks' messages.

    Shapes: ``body`` is ``(W, bytes)``.
    """
    starts = [0] * len(every)
    found: dict[int, Joined] = {}
    for number in order:
        tensor = tensors[number]
        of_ranks = [counts[number] for counts in every]
        scalars = of_ranks[0] == _NO_ROWS
        row_bytes = tensor.element_size() * tensor.shape[1:].numel()
        sizes = [row_bytes * (1 if scalars else count) for count in of_ranks]
        if len({*zip(starts, sizes, strict=True)}) == 1:
            flat = body[:, starts[0] : starts[0] + sizes[0]].reshape(-1)
        else:
            places = zip(body, starts, sizes, strict=True)
            flat = torch.cat([row[start : start + size] for row, start, size in places])
        starts = [start + size for start, size in zip(starts, sizes, strict=True)]
        shape = (len(every),) if scalars else (sum(of_ranks), *tensor.shape[1:])
        values = flat.view(tensor.dtype).view(shape)
        found[number] = Joined(values.to(tensor.device), () if scalars else tuple(of_ranks))
    return [found[number] for number in range(len(tensors))]


def _difference(rank: int, mine: Sent, other: int, theirs: Sent) -> str:
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
