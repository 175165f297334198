"""A hang in words: which ranks wait where for whom, and which rank is elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from notebook_accel.launch.places import place_of
from notebook_accel.launch.stacks import Frame, main_thread, read
from notebook_accel.origins import is_users

_FORMS_GROUP = ("init_process_group", "new_group", "split_group", "new_subgroups", "new_subgroups_by_enumeration")
_COLLECTIVES = ("/torch/distributed/distributed_c10d.py", "/torch/distributed/_functional_collectives.py")
# End of the file, function, what a rank does that is in it, and whether it waits for other ranks there.
_WAITS = (
    ("/torch/autograd/graph.py", "_engine_run_backward", "waits in backward", True),
    ("/torch/nn/parallel/distributed.py", "__init__", "waits where DistributedDataParallel is built", True),
    ("/torch/nn/parallel/distributed.py", "_sync_buffers", "waits in DistributedDataParallel's forward", True),
    ("/torch/utils/data/dataloader.py", "_try_get_data", "waits for a DataLoader worker", False),
    ("/torch/utils/data/dataloader.py", "_get_data", "waits for a DataLoader worker", False),
    ("/torch/utils/data/dataloader.py", "_shutdown_workers", "waits for its DataLoader workers to end", False),
    ("/torch/cuda/__init__.py", "synchronize", "waits for its GPU", False),
    ("/torch/cuda/streams.py", "synchronize", "waits for its GPU", False),
)
_FINE_BELOW_SECONDS = 10


@dataclass(frozen=True)
class StillRank:
    """A rank that does not move.

    Attributes:
        rank: which rank.
        text: what faulthandler wrote of its main thread.
        since_seconds: since when it has been there, on the monotonic clock.
        computes: whether it uses the processor.
    """

    rank: int
    text: str
    since_seconds: float
    computes: bool = False


@dataclass(frozen=True)
class Waiting:
    """What a rank waits for.

    Attributes:
        words: that, after the rank's name.
        for_ranks: True where it is the other ranks.
    """

    words: str
    for_ranks: bool


@dataclass(frozen=True)
class HangReport:
    """A hang in words.

    Attributes:
        what: the headline.
        places: what each rank does that has not ended, after its name, by rank.
        lines: the whole report.
        at_seconds: when it was found, on the monotonic clock.
    """

    what: str
    places: dict[int, str]
    lines: tuple[str, ...]
    at_seconds: float

    def __str__(self) -> str:
        """Give the whole report."""
        return "\n".join(self.lines)


def waiting_of(frames: Sequence[Frame]) -> Waiting | None:
    """Recognise what the innermost line of the user's own code has called, None where it is nothing that waits.

    Args:
        frames: the calls of the main thread, the innermost first.
    """
    inner = takewhile(lambda frame: not is_users(frame.file), frames)
    found = [waiting for waiting in map(_waiting_in, inner) if waiting is not None]
    return found[-1] if found else None


def _waiting_in(frame: Frame) -> Waiting | None:
    if frame.file.endswith(_COLLECTIVES):
        if frame.function in _FORMS_GROUP:
            return Waiting("waits for the other ranks to form a group", for_ranks=True)
        return None if frame.function.startswith("_") else Waiting(f"waits in {frame.function}", for_ranks=True)
    for file, function, words, for_ranks in _WAITS:
        if frame.function == function and frame.file.endswith(file):
            return Waiting(words, for_ranks)
    return None


def report_of(name: str, still: Sequence[StillRank], ended: Mapping[int, str], now_seconds: float) -> HangReport:
    """Put a hang into words.

    Args:
        name: the function's name.
        still: the ranks that have not ended; none of them moves.
        ended: how the others ended, in words that follow the rank's name, by rank.
        now_seconds: the time, on the monotonic clock.
    """
    waits = {rank.rank: _waiting_of_rank(rank) for rank in still}
    collectives = {wait.words for wait in waits.values() if wait is not None and wait.for_ranks}
    places = {rank.rank: _words(rank, waits[rank.rank], bool(collectives)) for rank in still}
    since: dict[str, float] = {}
    for rank in still:
        place = places[rank.rank]
        since[place] = max(rank.since_seconds, since.get(place, rank.since_seconds))
    lines: dict[str, list[int]] = {}
    for rank in still:
        place = places[rank.rank]
        lines.setdefault(f"{place}, {_since(since[place], now_seconds)}", []).append(rank.rank)
    for number, how in ended.items():
        lines.setdefault(f"{how}: the others wait for it" if collectives else how, []).append(number)
    ordered = sorted(lines.items(), key=lambda line: line[1])
    what = f"{name} hangs: nothing has changed for {_duration(now_seconds - max(r.since_seconds for r in still))}"
    told = [what, *(f"  {_ranks(ranks)} {_plural(words, len(ranks))}" for words, ranks in ordered)]
    if len(collectives) > 1 and all(waits.values()) and not ended:
        told.append("  every rank must call the same collectives in the same order")
    return HangReport(what, places, tuple(told), now_seconds)


def _waiting_of_rank(rank: StillRank) -> Waiting | None:
    stacks = read(rank.text)
    return waiting_of(stacks[0].frames) if stacks else None


def _words(rank: StillRank, wait: Waiting | None, others_wait: bool) -> str:
    if not read(rank.text):
        return "does not answer: still starting, or stopped"
    place = place_of(main_thread(rank.text))
    if wait is not None:
        return f"{wait.words}, called {place}"
    does = "computes" if rank.computes else "is"
    return f"{does} elsewhere: {place}" if others_wait else f"{does} {place}"


def _since(since_seconds: float, now_seconds: float) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(time.time() - (time.monotonic() - since_seconds)))
    return f"since {clock} ({_duration(now_seconds - since_seconds)})"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _FINE_BELOW_SECONDS else f"{seconds:.0f} s"


def _ranks(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"ranks {', '.join(first)} and {last}" if first else f"rank {last}"


def _plural(words: str, count: int) -> str:
    """Let the verb agree with several ranks."""
    if count == 1:
        return words
    verb, _, rest = words.partition(" ")
    several = {"waits": "wait", "is": "are", "has": "have", "does": "do", "computes": "compute"}
    return f"{several.get(verb, verb)} {rest}".replace("the others wait for it", "the others wait for them")
