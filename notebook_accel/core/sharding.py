"""Which rank gets which samples: index lists only, no data.

Shapes: ``W`` is the number of ranks, ``B`` the batch size that the user wrote.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from notebook_accel.core.epoch import UNKNOWN, EpochLedger, Round
from notebook_accel.core.samplers import SeedableRandomSampler
from notebook_accel.core.seeding import seeded

_EXACT = (SequentialSampler, RandomSampler, SeedableRandomSampler, SubsetRandomSampler, WeightedRandomSampler)
Deal = tuple[list[list[Any]], Round]


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How batches are shared out.

    Attributes:
        rank: 0-based number of this process.
        world_size: ``W``.
        batch_size: ``B`` in samples; None where the batch sampler does not say.
        drop_last: True when an incomplete last round is left out.
        split: True when every batch is cut into ``W`` parts, False when whole batches go round.
        even: True when the last round is filled up with samples from the start, so that all ranks get the same.
        full: True when batches that are shared out after they were read are filled up, too, where they are short.
    """

    rank: int
    world_size: int
    batch_size: int | None
    drop_last: bool
    split: bool
    even: bool
    full: bool = False

    def rounds_of(self, batches: int) -> int:
        """Give how many batches this rank gets of so many of the run."""
        if self.split or self.world_size == 1:
            return batches
        full, rest = divmod(batches, self.world_size)
        if not rest or self.drop_last:
            return full
        return full + (1 if self.even else self.rank < rest)


def rounds(batches: Iterable[Sequence[Any]], plan: Sharding) -> Iterator[Deal]:
    """Give, round by round, every rank's samples and how many of them are not padding.

    Example:
        >>> plan = Sharding(rank=0, world_size=2, batch_size=2, drop_last=False, split=False, even=True)
        >>> [batches for batches, _ in rounds([[0, 1], [2, 3], [4]], plan)]
        [[[0, 1], [2, 3]], [[4, 0], [1, 2]]]
    """
    if plan.world_size == 1 and not plan.even:
        return _kept(batches)
    return _split(batches, plan) if plan.split else _dealt(batches, plan)


def _kept(batches: Iterable[Sequence[Any]]) -> Iterator[Deal]:
    its_round = UNKNOWN
    for batch in batches:
        given = [list(batch)]  # a copy: samplers may fill the same list again
        its_round = _full_round(given, its_round)
        yield given, its_round


def _dealt(batches: Iterable[Sequence[Any]], plan: Sharding) -> Iterator[Deal]:
    first: list[list[Any]] = []
    held: list[list[Any]] = []  # the last full round: only the end of the stream tells whether it needs padding
    hand: list[list[Any]] = []
    its_round = UNKNOWN
    for batch in batches:
        hand.append(list(batch))
        if len(hand) == plan.world_size:
            if held:
                its_round = _full_round(held, its_round)
                yield held, its_round
            held, hand = hand, []
            first = first or held
    if hand and not plan.drop_last:
        if held:
            yield held, _full_round(held)
        yield _filled(hand, first or hand, plan)
    elif held:
        yield _filled(held, first, plan)


def _filled(hand: list[list[Any]], first: list[list[Any]], plan: Sharding) -> Deal:
    missing = plan.world_size - len(hand)
    absent: list[list[Any]] = [[] for _ in range(missing)]
    real = hand + absent
    if not plan.even:
        return real, _full_round(real)
    if plan.batch_size is None:
        # Batches of the user's own sizes are never changed; a rank without one gets a whole early one.
        given = hand + list(itertools.islice(itertools.cycle(first), missing))
        return given, _round(given, real)
    samples = itertools.cycle([sample for batch in first for sample in batch])
    given = [batch + list(itertools.islice(samples, max(0, plan.batch_size - len(batch)))) for batch in real]
    return given, _round(given, real)


def _split(batches: Iterable[Sequence[Any]], plan: Sharding) -> Iterator[Deal]:
    first: list[Any] = []
    for batch in batches:
        whole = list(batch)
        first = first or whole
        wanted = len(whole)
        if plan.even:
            wanted = max(plan.batch_size or 0, -(-len(whole) // plan.world_size) * plan.world_size)
        padded = whole + list(itertools.islice(itertools.cycle(first), wanted - len(whole)))
        given = _parts(padded, plan.world_size)
        starts = itertools.accumulate((len(part) for part in given), initial=0)
        real = tuple(min(len(part), max(0, len(whole) - start)) for part, start in zip(given, starts, strict=False))
        yield given, Round(tuple(map(len, given)), real)


def _parts(items: list[Any], count: int) -> list[list[Any]]:
    size, longer = divmod(len(items), count)
    ends = list(itertools.accumulate(size + (rank < longer) for rank in range(count)))
    return [items[start:end] for start, end in itertools.pairwise([0, *ends])]


def _full_round(given: list[list[Any]], before: Round = UNKNOWN) -> Round:
    """Give the round of batches without padding: the one before, if it was the same."""
    sizes = tuple([len(batch) for batch in given])
    return before if before.sizes == sizes else Round(sizes, sizes)


def _round(given: Sequence[Sequence[Any]], real: Sequence[Sequence[Any]]) -> Round:
    return Round(tuple(map(len, given)), tuple(map(len, real)))


class ShardedBatchSampler(Sampler[list[Any]]):
    """One rank's share of a batch sampler.

    Args:
        batches: the batch sampler of the whole run, the same on every rank.
        plan: how it is shared out.
        first_draw: a block in which all ranks draw the same random numbers; the first batches are drawn in it.

    Attributes:
        walk: the pass that was begun last.
    """

    def __init__(
        self,
        batches: Iterable[Sequence[Any]],
        plan: Sharding,
        first_draw: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.plan = plan
        self.walk: Walk | None = None
        self._batches = batches
        self._first_draw = first_draw
        self._expected = Expected(EpochLedger())

    def expect(self, expected: Expected) -> None:
        """Say how the pass that begins next is made."""
        self._expected = expected

    def __iter__(self) -> Iterator[list[Any]]:
        """Give this rank's batches."""
        if self._is_foreseen():
            self.walk = ForeseenWalk(self._batches, self.plan, self._first_draw, self._expected)
        else:
            self.walk = Walk(rounds(self._batches, self.plan), self.plan.rank, self._first_draw, self._expected)
        return self.walk.batches() if self._expected.seed is None else self._seeded(self.walk, self._expected.seed)

    def _seeded(self, walk: Walk, seed: Callable[[], int]) -> Iterator[Any]:
        batches = walk.draw()
        number = walk.left_out * self.plan.world_size + self.plan.rank
        yield from seeded(batches, seed() + number, self.plan.world_size)

    def _is_foreseen(self) -> bool:
        """Tell whether all sizes are known beforehand: samplers of the user's own may give other than they say."""
        batches = self._batches
        return type(batches) is BatchSampler and type(batches.sampler) in _EXACT and not self.plan.split

    def __len__(self) -> int:
        """Give the number of batches that this rank gets.

        Raises:
            TypeError: the batch sampler has no length.
        """
        count = len(self._batches)  # type: ignore[arg-type]  # a sampler without length raises
        return self.plan.rounds_of(count) - (self.plan.split and self._misses_last_split(count))

    def _misses_last_split(self, count: int) -> bool:
        samples = getattr(self._batches, "sampler", None)
        if self.plan.even or self.plan.drop_last or self.plan.batch_size is None or samples is None:
            return False
        return len(samples) - (count - 1) * self.plan.batch_size <= self.plan.rank


@dataclass(frozen=True)
class Expected:
    """How a pass is made.

    Attributes:
        ledger: is told of the rounds.
        skip: how many batches of this rank are left out.
        lookahead: how many rounds are known beyond the one being read.
        drawing: a block that the order is drawn in.
        seed: gives the seed of what workers draw, once the order is drawn; None lets them go on as they are.
    """

    ledger: EpochLedger
    skip: int = 0
    lookahead: int = 1
    drawing: Callable[[], AbstractContextManager[None]] = nullcontext
    seed: Callable[[], int] | None = None


class Walk:
    """One pass over one rank's share.

    Args:
        stream: the rounds.
        rank: this rank.
        first_draw: a block in which all ranks draw the same random numbers.
        expected: how the pass is made.

    Attributes:
        left_out: how many batches of this rank are left out; until the order is drawn, fewer may be asked for than
            was expected: those between are given and not announced.
    """

    def __init__(
        self,
        stream: Iterator[Deal],
        rank: int,
        first_draw: Callable[[], AbstractContextManager[None]],
        expected: Expected,
    ) -> None:
        self._stream = stream
        self._rank = rank
        self._first_draw = first_draw
        self._expected = expected
        self.left_out = expected.skip
        self._batches: Iterator[list[Any]] | None = None

    def draw(self) -> Iterator[list[Any]]:
        """Draw the order, unless it has been drawn: samplers do so when they are first asked."""
        if self._batches is None:
            with self._expected.drawing(), self._first_draw():
                first = next(self._stream, None)
            self._batches = self._walk([] if first is None else [first])
        return self._batches

    def batches(self) -> Iterator[list[Any]]:
        """Give this rank's batches. Once."""
        yield from self.draw()

    def _walk(self, first: list[Deal]) -> Iterator[list[Any]]:
        ledger, lookahead = self._expected.ledger, self._expected.lookahead
        ahead: deque[list[Any]] = deque()
        left_out, unannounced = self.left_out, self._expected.skip - self.left_out
        for batches, its_round in itertools.chain(first, self._stream):
            mine = batches[self._rank]
            if not mine:
                continue
            if left_out:
                left_out -= 1
                continue
            if unannounced:
                unannounced -= 1
            else:
                ledger.announce(its_round)
            ahead.append(mine)
            if len(ahead) > lookahead:
                yield ahead.popleft()
        yield from ahead


class ForeseenWalk(Walk):
    """One pass over one rank's share of batches whose sizes are known beforehand: all rounds are announced at once.

    Args:
        batches: gives lists of ``B`` numbers, and one shorter list at its end unless that is dropped.
        plan: how they are shared out; not split.
        first_draw: a block in which all ranks draw the same random numbers.
        expected: how the pass is made.
    """

    def __init__(
        self,
        batches: Any,
        plan: Sharding,
        first_draw: Callable[[], AbstractContextManager[None]],
        expected: Expected,
    ) -> None:
        super().__init__(iter(()), plan.rank, first_draw, expected)
        self._sampler = batches
        self._plan = plan

    def draw(self) -> Iterator[list[Any]]:
        """Draw the order, unless it has been drawn, and announce the rounds."""
        if self._batches is None:
            with self._expected.drawing(), self._first_draw():
                numbers = iter(self._sampler.sampler)
                first = list(itertools.islice(self._batches_of(numbers), self._plan.world_size))
            self._batches = self._shared(first, numbers)
        return self._batches

    def _batches_of(self, numbers: Iterator[Any]) -> Iterator[list[Any]]:
        return iter(BatchSampler(numbers, self._sampler.batch_size, self._sampler.drop_last))

    def _shared(self, first: list[list[Any]], numbers: Iterator[Any]) -> Iterator[list[Any]]:
        world_size, size = self._plan.world_size, self._sampler.batch_size
        whole, rest = divmod(len(self._sampler.sampler), size)
        rounds_, over = divmod(whole, world_size)
        sizes = () if self._sampler.drop_last else (*[size] * over, *[rest] * bool(rest))
        self._announce(Round(*[(size,) * world_size] * 2), rounds_ - self._expected.skip)
        end = rounds_ * world_size
        begin = min(end, self.left_out * world_size)
        if begin:
            stream = self._batches_of(_after(self._sampler.sampler, numbers, len(first) * size, begin * size))
        else:
            stream = itertools.chain(first, self._batches_of(numbers))
        own = itertools.islice(stream, min(end - begin, self._rank), end - begin, world_size)
        if not sizes:
            return own
        _, last = _filled([[0] * count for count in sizes], [[0] * size] * world_size, self._plan)
        self._announce(last, int(last.sizes[self._rank] > 0 and self._expected.skip <= rounds_))
        return own if self.left_out > rounds_ else itertools.chain(own, self._last(first, stream))

    def _announce(self, its_round: Round, times: int) -> None:
        self._expected.ledger.announce(its_round, max(0, times))

    def _last(self, first: list[list[Any]], stream: Iterator[list[Any]]) -> Iterator[list[Any]]:
        given, _ = _filled(list(stream), first, self._plan)
        if given[self._rank]:
            yield given[self._rank]


def _after(sampler: Any, numbers: Iterator[Any], drawn: int, left_out: int) -> Iterator[Any]:
    """Give the numbers that follow those which are left out; no lists are made of these.

    Args:
        sampler: what gives the numbers.
        numbers: its pass.
        drawn: how many have been taken from it.
        left_out: how many are, with these.
    """
    if type(sampler) is SequentialSampler:
        return iter(range(left_out, len(sampler)))
    return itertools.islice(numbers, left_out - drawn, None)
