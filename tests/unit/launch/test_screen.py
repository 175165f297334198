from __future__ import annotations

import queue
import threading

import pytest

from notebook_accel.launch.screen import Batch, Screen, Source
from notebook_accel.wire.events import Cleared, Displayed, Progress

ZERO, ONE = Source("run", 0, 2), Source("run", 1, 2, "[1] ")


def awaited(screen: Screen) -> Batch:
    screen.wait()
    return screen.take()


def shown(*pieces: tuple[Source | None, str]) -> str:
    screen = Screen()
    for source, text in pieces:
        screen.put(text, source)
    return screen.take().text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([(ONE, "a\n\nb\n")], "[1] a\n[1] \n[1] b\n"),
        ([(ONE, "a"), (ONE, "b\n"), (ONE, "c\n")], "[1] ab\n[1] c\n"),
        ([(ZERO, "dots.."), (ONE, "line\n"), (ZERO, ".\n")], "dots..\n[1] line\n.\n"),
        ([(ONE, "dots.."), (ZERO, "line\n"), (ONE, ".\n")], "[1] dots..\nline\n[1] .\n"),
        ([(ONE, "dots"), (None, "said\n")], "[1] dots\nsaid\n"),
        ([(ONE, "10%\r20%\r"), (ONE, "30%\n")], "[1] 20%\r[1] 30%\n"),
        ([(ONE, "\r10%"), (ONE, "\r20%")], "[1] 10%\r[1] 20%"),
        ([(ZERO, "one\r\ntwo\r\n")], "one\ntwo\n"),
        ([(ZERO, "10%\r20%\r30%\nend\n")], "30%\nend\n"),
        ([(ONE, "a\x0bb\u2028c\n")], "[1] a\x0bb\u2028c\n"),
    ],
)
def test_no_line_is_continued_by_another_rank_and_each_has_its_label(pieces: list[tuple[Source, str]], text: str):
    assert shown(*pieces) == text


def test_displays_keep_their_place_among_the_text():
    screen = Screen()
    screen.put("before", ZERO)
    screen.put_rich(Displayed(1, {"text/plain": "one\ntwo"}), ONE)
    screen.put_rich(Cleared(1), ONE)
    screen.put("after\n", ZERO)
    batch = screen.take()
    assert [item if isinstance(item, str) else type(item.event) for item in batch.items] == [
        "before\n",
        Displayed,
        Cleared,
        "after\n",
    ]
    assert batch.text == "before\n[1] one\n[1] two\nafter\n"


def test_bars_are_given_whenever_one_has_moved():
    screen = Screen()
    assert screen.take().bars is None
    screen.put_progress(Progress(0, 0, "train", "1/4", 1, 4), ZERO)
    batch = awaited(screen)
    assert batch
    assert [row.label for row in batch.bars or ()] == ["train"]
    assert not screen.take()
    assert not Batch()


def test_the_last_line_is_ended_once():
    screen = Screen()
    screen.put("no end", ONE)
    screen.end_line()
    screen.end_line()
    assert screen.take().text == "[1] no end\n"


def test_a_screen_gives_what_was_put_in_its_order_and_once():
    screen = Screen()
    assert screen.take().text == ""
    for text in ("one\n", "", "two", "!"):
        screen.put(text)
    assert screen.take().text == "one\ntwo!"
    assert screen.take().text == ""
    screen.put("three")
    assert awaited(screen).text == "three"


def test_a_screen_that_nobody_takes_from_keeps_the_latest_and_says_what_it_folded():
    screen = Screen(limit_characters=10)
    for letter in "abcdef":
        screen.put(letter * 4)
    assert screen.take().text == "notebook_accel: 16 characters are not shown; .logs(rank) has them all\neeeeffff"
    screen.put("g" * 10)
    assert screen.take().text == "g" * 10, "what was taken counts no more, and a full screen folds nothing"


def test_one_text_is_shown_however_long_it_is():
    screen = Screen(limit_characters=3)
    screen.put("before")
    screen.put("x" * 5000)
    assert screen.take().text == "notebook_accel: 6 characters are not shown; .logs(rank) has them all\n" + "x" * 5000


def test_a_nudge_wakes_whoever_waits_once():
    screen = Screen()
    taken: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: [taken.put(awaited(screen).text) for _ in range(2)])
    thread.start()
    screen.nudge()
    assert taken.get(timeout=10) == ""
    with pytest.raises(queue.Empty):
        taken.get(timeout=0.05)
    screen.put("text")
    assert taken.get(timeout=10) == "text"
    thread.join()


def test_a_nudge_is_used_up_by_the_wait_that_finds_text():
    screen = Screen()
    screen.put("text")
    screen.nudge()
    assert awaited(screen).text == "text"
    threading.Timer(0.02, screen.put, ["later"]).start()
    assert awaited(screen).text == "later", "the nudge woke nobody a second time"


def test_several_producers_lose_nothing_and_keep_their_order():
    screen = Screen()
    producers = [
        threading.Thread(target=lambda name=name: [screen.put(f"{name}{i}\n") for i in range(500)]) for name in "abcd"
    ]
    for producer in producers:
        producer.start()
    seen = ""
    while seen.count("\n") < 2000:
        seen += awaited(screen).text
    for producer in producers:
        producer.join()
    lines = seen.splitlines()
    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name}{i}" for i in range(500)]
