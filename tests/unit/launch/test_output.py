from __future__ import annotations

import gc
import queue
import threading

import pytest

from notebook_accel.launch.output import RankOutput, Screen, label_of


def feed(data: bytes, size: int, label: str = "") -> tuple[list[str], RankOutput]:
    output = RankOutput(label)
    shown = [output.add(data[start : start + size]) for start in range(0, len(data), size)]
    return [*shown, output.finish()], output


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_and_characters_are_never_cut(size: int):
    text = "one\nzwei \u00fc\u20ac\U0001f600\n\nno end"
    shown, output = feed(text.encode(), size, "[1] ")
    assert "".join(shown) == "[1] one\n[1] zwei \u00fc\u20ac\U0001f600\n[1] \n[1] no end\n"
    assert all(part == "" or part.endswith("\n") for part in shown)
    assert output.text() == text
    assert output.line_count() == 4


def test_a_bars_states_are_shown_as_they_come():
    output = RankOutput()
    assert output.add(b" 10%\r 20%\r 3") == " 10%\r 20%\r"
    assert output.add(b"0%\n") == " 30%\n"
    assert output.finish() == ""


def test_bytes_that_are_no_text_are_kept_and_shown_somehow():
    output = RankOutput()
    assert output.add(b"\xff\xfe\n") == "\ufffd\ufffd\n"
    assert output.raw() == b"\xff\xfe\n"


def test_much_output_is_kept_whole_and_its_file_is_closed():
    output = RankOutput()
    chunk = b"x" * 99_999 + b"\n"
    for _ in range(30):
        output.add(chunk)
    assert output.raw() == chunk * 30
    assert output.line_count() == 30
    del output
    gc.collect()  # an unclosed file would warn, and a warning fails the test


def test_labels():
    assert [label_of(rank, None) for rank in (0, 1, 12)] == ["", "[rank 1] ", "[rank 12] "]
    assert label_of(3, "[${role_name}${local_rank}]: ${other}") == "[default3]: ${other}"


def test_a_line_end_of_two_characters_is_not_cut():
    output = RankOutput("> ")
    assert [output.add(b"one\r"), output.add(b"\ntwo\r\n"), output.finish()] == ["", "> one\r\n> two\r\n", ""]


@pytest.mark.parametrize(
    ("data", "count"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2), (b" 1%\r 2%\r", 1)]
)
def test_how_many_lines(data: bytes, count: int):
    output = RankOutput()
    output.add(data)
    assert output.line_count() == count


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_reading_in_between_loses_nothing(size: int):
    output = RankOutput()
    for start in range(0, size, 300_000):
        output.add(b"y" * min(300_000, size - start))
        assert len(output.raw()) == min(size, start + 300_000)
    assert output.text() == "y" * size


def test_an_end_within_a_character_is_shown_somehow():
    output = RankOutput("> ")
    assert output.add("\u20ac".encode()[:2]) == ""
    assert output.finish() == "> \ufffd\n"
    assert output.finish() == ""


def test_only_a_line_feed_ends_a_line():
    assert RankOutput("> ").add("a\x0bb\x0cc\u2028d\x85e\n".encode()) == "> a\x0bb\x0cc\u2028d\x85e\n"


def test_a_screen_gives_what_was_put_in_its_order_and_once():
    screen = Screen()
    assert screen.take() == ""
    for text in ("one\n", "", "two", "\r"):
        screen.put(text)
    assert screen.take() == "one\ntwo\r"
    assert screen.take() == ""
    screen.put("three")
    assert screen.wait_and_take() == "three"


def test_a_screen_that_nobody_takes_from_keeps_the_latest_and_says_what_it_folded():
    screen = Screen(limit_characters=10)
    for letter in "abcdef":
        screen.put(letter * 4)
    assert screen.take() == "notebook_accel: 16 characters are not shown; .logs(rank) has them all\neeeeffff"
    screen.put("g" * 10)
    assert screen.take() == "g" * 10, "what was taken counts no more, and a full screen folds nothing"


def test_one_text_is_shown_however_long_it_is():
    screen = Screen(limit_characters=3)
    screen.put("before")
    screen.put("x" * 5000)
    assert screen.take() == "notebook_accel: 6 characters are not shown; .logs(rank) has them all\n" + "x" * 5000


def test_a_nudge_wakes_whoever_waits_once():
    screen = Screen()
    taken: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: [taken.put(screen.wait_and_take()) for _ in range(2)])
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
    assert screen.wait_and_take() == "text"
    threading.Timer(0.02, screen.put, ["later"]).start()
    assert screen.wait_and_take() == "later", "the nudge woke nobody a second time"


def test_several_producers_lose_nothing_and_keep_their_order():
    screen = Screen()
    producers = [
        threading.Thread(target=lambda name=name: [screen.put(f"{name}{i}\n") for i in range(500)]) for name in "abcd"
    ]
    for producer in producers:
        producer.start()
    seen = ""
    while seen.count("\n") < 2000:
        seen += screen.wait_and_take()
    for producer in producers:
        producer.join()
    lines = seen.splitlines()
    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name}{i}" for i in range(500)]
