from __future__ import annotations

from notebook_accel.launch.bars import Bars, Row, html_of, text_of
from notebook_accel.wire.events import Progress


def said(rank: int, bar: int, label: str, done: float, total: float | None = 10, **end: bool) -> Progress:
    return Progress(rank, bar, label, f"{done:g}/{total}", done, total, **end)


def bars_of(*events: Progress, world_size: int = 2) -> list[str]:
    bars = Bars()
    for event in events:
        bars.move(event, "run", world_size, f"[{event.rank}] " if event.rank else "")
    return [row.text() for row in bars.rows()]


def test_a_bar_of_every_rank_is_one_bar_at_the_place_of_the_last():
    assert bars_of(said(0, 0, "train", 5), said(1, 0, "train", 2)) == [
        "train:  20%|████                | 2/10 (ranks at 2 to 5)"
    ]
    assert bars_of(said(0, 0, "train", 10), said(1, 0, "train", 10)) == ["train: 100%|████████████████████| 10/10"]


def test_bars_of_some_ranks_are_labelled():
    assert bars_of(said(1, 0, "load", 5)) == ["[1] load:  50%|██████████          | 5/10"]
    assert [line[:8] for line in bars_of(said(0, 0, "a", 1), said(1, 0, "b", 1))] == ["a:  10%|", "[1] b:  "]


def test_a_bar_that_only_one_rank_has_does_not_part_the_others():
    lines = bars_of(said(0, 0, "download", 1), said(0, 1, "train", 1), said(1, 0, "train", 1))
    assert [line.split(":")[0] for line in lines] == ["download", "train"]


def test_descriptions_that_change_leave_the_bars_together():
    lines = bars_of(said(0, 0, "", 1), said(1, 0, "", 1), said(0, 0, "loss 0.5", 2), said(1, 0, "loss 0.7", 1))
    assert [line.split(":")[0] for line in lines] == ["loss 0.7"]


def test_the_same_bar_again_is_another_one():
    first = said(0, 0, "epoch", 10, closed=True)
    assert len(bars_of(first, said(0, 1, "epoch", 1), world_size=1)) == 2


def test_what_does_not_stay_is_gone_when_the_last_rank_has_closed_it():
    gone = [said(rank, 0, "x", 10, closed=True, stays=False) for rank in (0, 1)]
    start = [said(0, 0, "x", 1), said(1, 0, "x", 1)]
    assert len(bars_of(*start, gone[0])) == 1
    assert bars_of(*start, *gone) == []


def test_bars_without_a_total():
    assert bars_of(said(0, 0, "read", 5, None), world_size=1) == ["read: 5/None"]
    assert bars_of(said(0, 0, "", 5, None), world_size=1) == ["5/None"]
    assert bars_of(said(0, 0, "", 0, 0), world_size=1) == ["0/0"]


def test_of_many_ended_bars_the_latest_are_shown():
    ended = [said(0, number, f"b{number}", 10, closed=True) for number in range(25)]
    lines = bars_of(*ended, world_size=1)
    assert lines[0] == "5 bars that have ended are not shown"
    assert [line.split(":")[0] for line in lines[1:]] == [f"b{number}" for number in range(5, 25)]


def test_drawing():
    rows = [Row("a<b", "1/2", 0.5, ended=False), Row("", "7 it", None, ended=True)]
    assert text_of(rows) == "a<b:  50%|██████████          | 1/2\n7 it"
    drawn = html_of(rows)
    assert "a&lt;b" in drawn
    assert 'aria-label="a&lt;b"' in drawn
    assert 'value="0.5000"' in drawn
    assert Row("", "", 1 / 160, ended=False).text().startswith("  1%|▏ ")
