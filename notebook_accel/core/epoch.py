"""What a pass over a loader has given so far: which rows are padding, and how much is left.

Shapes: ``W`` is the number of ranks, ``B`` the rows of one rank's batch, ``R`` one rank's rows of a whole epoch.
"""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from notebook_accel.core.tree import leaves


class Round(NamedTuple):
    """One step of all ranks.

    Attributes:
        sizes: rows of every rank's batch; () where unknown.
        real: how many of them, from the first, are not padding.
    """

    sizes: tuple[int, ...]
    real: tuple[int, ...]

    def flags(self, rank: int) -> list[bool]:
        """Tell for every row of ``rank``'s batch whether it is no padding.

        Example:
            >>> Round(sizes=(2, 2), real=(2, 1)).flags(1)
            [True, False]
        """
        return [True] * self.real[rank] + [False] * (self.sizes[rank] - self.real[rank])


UNKNOWN = Round((), ())
Run = tuple[Round, int]  # and how often in a row
_UNCLEAR = (
    "several loaders are read in turn, and rows of more than one of them would fit what was gathered: those of the "
    "loader read last are assumed. Gather a tensor of the batch with it, as in gather_for_metrics((outputs, targets))"
)


class EpochLedger:
    """One pass over one loader.

    The sampler announces rounds ahead of time, the loader advances when it hands a batch out.

    Attributes:
        batch: the one in hand, where the loader has said so.
    """

    def __init__(self, watch: EpochWatch | None = None, loader: weakref.ref[Any] | None = None) -> None:
        self.batch: Any = None
        self._watch = watch
        self.loader = loader  # weak: the pass that ended last is remembered until the next
        self._announced: deque[Run] = deque()
        self._waiting = 0  # rounds of these
        self._left = 0  # rounds like the one in hand that follow it
        # Equal rounds in a row are one entry with its count: an epoch takes a few.
        self._rounds: list[Round] = []
        self._counts: list[int] = []

    def announce(self, its_round: Round, times: int = 1) -> None:
        """Add a round that will be handed out, so often in a row."""
        if times:
            self._announced.append((its_round, times))
            self._waiting += times

    def advance(self) -> None:
        """Note that the next announced round is handed out."""
        if self._left:
            self._left -= 1
        else:
            self._begin_run()
        self._counts[-1] += 1
        if self._watch is not None and self._watch.latest is not self:
            self._watch.advanced(self)

    def _begin_run(self) -> None:
        its_round, times = self._announced.popleft() if self._announced else (UNKNOWN, 1)
        self._waiting = max(0, self._waiting - times)
        self._left = times - 1
        if not self._rounds or self._rounds[-1] != its_round:
            self._rounds.append(its_round)
            self._counts.append(0)

    def close(self) -> None:
        """Note that the pass is over, at its end or before."""
        self.batch = None
        if self._watch is not None:
            self._watch.closed(self)

    @property
    def remaining(self) -> int:
        """Number of rounds known to follow; exact where that is less than the sampler looks ahead."""
        return self._left + self._waiting

    @property
    def current(self) -> Round:
        """The round in hand."""
        return self._rounds[-1] if self._rounds else UNKNOWN

    def holds(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is of the batch in hand, or a view of one that is."""
        # In inference mode torch does not note of what a tensor is a view.
        base = None if tensor.is_inference() else tensor._base  # noqa: SLF001 - documented for users
        return any(leaf is tensor or (base is not None and leaf is base) for _, leaf in leaves(self.batch))

    def batch_mask(self, rows: tuple[int, ...]) -> list[Run] | None:
        """Tell which of the gathered rows are real, if the ranks gave the rows of the current batch."""
        return [(self.current, 1)] if self.current.sizes == rows else None

    def epoch_mask(self, rows: tuple[int, ...]) -> list[Run] | None:
        """Tell which of the gathered rows are real, if the ranks gave the rows of all batches so far."""
        runs = list(zip(self._rounds, self._counts, strict=True))
        if not runs or any(len(its.sizes) != len(rows) for its, _ in runs):
            return None
        totals = tuple(sum(its.sizes[rank] * count for its, count in runs) for rank in range(len(rows)))
        return runs if totals == rows else None


def _tensors_in(data: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(data) if isinstance(leaf, Tensor)]


class EpochWatch:
    """The passes that the loaders of one process are in, the one read last at the end.

    Attributes:
        latest: the pass whose loader handed a batch out last, None where one has ended since.
    """

    def __init__(self) -> None:
        self.latest: EpochLedger | None = None
        self._open: list[EpochLedger] = []
        self._ended: EpochLedger | None = None
        self._in_turn = False  # a loader goes on while one that was begun after it is still read

    def advanced(self, ledger: EpochLedger) -> None:
        """Note that ``ledger``'s loader handed a batch out, where it did not the last time."""
        self.latest = ledger
        self._ended = None
        if not self._open or self._open[-1] is not ledger:
            self._in_turn = self._in_turn or ledger in self._open
            self._open = [other for other in self._open if other is not ledger] + [ledger]

    def closed(self, ledger: EpochLedger) -> None:
        """Note that ``ledger``'s pass is over."""
        self.latest = None
        self._open = [other for other in self._open if other is not ledger]
        self._in_turn = self._in_turn and len(self._open) > 1
        self._ended = ledger

    @property
    def remaining(self) -> int | None:
        """Number of batches known to follow in the loader that is being read, None outside of all loops."""
        return self._open[-1].remaining if self._open else None

    @property
    def loader(self) -> Any:
        """The loader that is being read, in the innermost loop; None outside of all loops."""
        reference = self._open[-1].loader if self._open else None
        return None if reference is None else reference()

    @property
    def current(self) -> Round:
        """The round in hand, in the innermost loop."""
        return self._open[-1].current if self._open else UNKNOWN

    def round_of(self, data: Any) -> Round:
        """Give the round in hand that data comes from: where loaders are read in turn, of that whose batch it is of.

        Args:
            data: a nested structure of tensors.
        """
        if len(self._open) < 2:  # noqa: PLR2004 - nothing to choose from
            return self.current
        found = (ledger for tensor in _tensors_in(data) for ledger in self._open[::-1] if ledger.holds(tensor))
        return next((ledger.current for ledger in found), self.current)

    @property
    def remainder(self) -> int:
        """Real rows of the batch in hand, over all ranks, where some only fill up; else -1."""
        current = self.current
        return -1 if current.sizes == current.real else sum(current.real)

    def mask(self, rows: tuple[int, ...], data: Any = ()) -> Tensor | None:
        """Tell which of the gathered rows are real, None when all are, or come from no loader that we know of.

        Rows are matched by number: a whole epoch that has just ended, the batch in hand (innermost loop first), all
        that a running loop gave so far, the last batch of the loop that has just ended. Where the numbers fit several
        loaders, that one counts whose batch in hand holds a tensor of the data.

        Args:
            rows: how many each rank gave.
            data: what is gathered; its first tensor that is of a batch tells the most.

        Shapes: ``(sum of rows,)``, bool.
        """
        ended = [self._ended] if self._ended is not None else []
        running = self._open[::-1]
        looks = [(ledger, ledger.epoch_mask) for ledger in ended] + [(each, each.batch_mask) for each in running]
        looks += [(ledger, ledger.epoch_mask) for ledger in running] + [(each, each.batch_mask) for each in ended]
        found = ((ledger, runs) for ledger, look in looks if (runs := look(rows)) is not None)
        first = next(found, None)
        if first is None:
            return None
        runs = first[1]
        if len(running) + len(ended) > 1:
            runs = self._choice([first, *found], data)
        if all(its.sizes == its.real for its, _ in runs):
            return None
        return torch.tensor([flag for rank in range(len(rows)) for its, n in runs for flag in its.flags(rank) * n])

    def _choice(self, found: list[tuple[EpochLedger, list[Run]]], data: Any) -> list[Run]:
        first = found[0][1]
        if all(runs == first for _, runs in found):
            return first
        of_batch = (runs for tensor in _tensors_in(data) for ledger, runs in found if ledger.holds(tensor))
        chosen = next(of_batch, None)
        if chosen is not None:
            return chosen
        if self._in_turn:
            warnings.warn(_UNCLEAR, stacklevel=5)
        return first
