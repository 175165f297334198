from __future__ import annotations

import warnings
from types import SimpleNamespace

import torch

from notebook_accel.backends.recompilation import CompilationWatch, RecompilationWarning


class Loop:
    """A training loop whose compilations a test decides."""

    def __init__(self, rank: int = 0) -> None:
        self.compiled = 0
        metrics = SimpleNamespace(metric_data=lambda _name: (self.compiled, 0, ()) if self.compiled else None)
        self.watch = CompilationWatch(metrics, rank)
        self.watch.begin()

    def step(self, rows: int = 8, new: int = 0) -> list[str]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.watch.look()
            self.watch.see({"ids": torch.ones(rows, 3), "more": [torch.ones(rows, dtype=torch.int64)]})
            self.compiled += new
            self.watch.end_step(self)
        assert {warning.category for warning in said} <= {RecompilationWarning}
        assert {warning.filename for warning in said} <= {__file__}
        return [str(warning.message) for warning in said]


def test_the_first_steps_compile_without_a_word():
    loop = Loop()
    assert [loop.step(new=2) for _ in range(3)] == [[], [], []]
    assert (loop.watch.count, loop.watch.late) == (6, 0)


def test_a_new_shape_is_named_with_what_to_do():
    loop = Loop()
    for _ in range(4):
        loop.step()
    (said,) = loop.step(rows=5, new=1)
    assert "1 new program in step 5 of a loop: batch['ids'] (8, 3) -> (5, 3); batch['more'][0] (8,) -> (5,)" in said
    assert "drop_last=True" in said
    assert loop.step(rows=5) == []


def test_a_new_program_without_a_new_shape_is_told_apart():
    loop = Loop()
    for _ in range(4):
        loop.step()
    (said,) = loop.step(new=1)
    assert "a shape that it had before" in said
    assert ".item()" in said


def test_it_is_said_a_few_times_and_on_one_rank():
    loop, silent = Loop(), Loop(rank=1)
    said = [loop.step(rows=8 + number, new=1) for number in range(20)]
    assert sum(map(len, said)) == 5
    assert ["later ones are not said" in text for texts in said for text in texts] == [False] * 4 + [True]
    assert [silent.step(rows=8 + number, new=1) for number in range(20)] == [[]] * 20
    assert silent.watch.late == loop.watch.late == 17


def test_a_loop_that_begins_may_compile_again():
    loop = Loop()
    for _ in range(5):
        loop.step()
    loop.watch.begin()
    assert [loop.step(rows=4, new=1) for _ in range(3)] == [[], [], []]
