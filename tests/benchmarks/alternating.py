"""Blocks of code measured in turns, in random order, with an interval of their median's ratio."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

Block = Callable[[int], None]
Found = dict[str, list[float]]


def alternate(blocks: dict[str, Block], rounds: int, steps: int) -> Found:
    """Microseconds a step, of each block in each round."""
    found: Found = {name: [] for name in blocks}
    for block in blocks.values():
        block(steps)
    turns = random.Random(rounds)  # the ranks take the same turns
    for _ in range(rounds):
        order = turns.sample(list(blocks), len(blocks))
        for name in order:
            begun = time.perf_counter()
            blocks[name](steps)
            found[name].append(1e6 * (time.perf_counter() - begun) / steps)
    return found


def interval(values: list[float], draws: int = 1000) -> tuple[float, float]:
    medians = sorted(statistics.median(random.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def report(title: str, found: Found, base: str) -> None:
    print(f"\n{title}, n={len(found[base])}, us")
    for name, values in found.items():
        more = [value - of_base for value, of_base in zip(values, found[base], strict=True)]
        ratios = [value / of_base for value, of_base in zip(values, found[base], strict=True)]
        low, high = interval(ratios)
        median, added, ratio = (statistics.median(row) for row in (values, more, ratios))
        print(f"  {name:<22}{median:10.1f}   {added:+8.1f}   {ratio:6.3f} x  ({low:.3f} to {high:.3f})")
