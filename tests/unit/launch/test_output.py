from __future__ import annotations

import gc

import pytest

from notebook_accel.launch.output import RankOutput, label_of


def feed(data: bytes, size: int) -> tuple[list[str], RankOutput]:
    output = RankOutput()
    shown = [output.add(data[start : start + size]) for start in range(0, len(data), size)]
    return [*shown, output.finish()], output


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_and_characters_are_never_cut(size: int):
    text = "one\nzwei \u00fc\u20ac\U0001f600\n\nno end"
    shown, output = feed(text.encode(), size)
    assert "".join(shown) == text
    assert all(part == "" or part.endswith("\n") for part in shown[:-1])
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
    output = RankOutput()
    assert [output.add(b"one\r"), output.add(b"\ntwo\r\n"), output.finish()] == ["", "one\r\ntwo\r\n", ""]


def test_the_beginning_of_a_line_is_taken_once_and_its_end_follows():
    output = RankOutput()
    assert output.add(b"...") == ""
    assert output.is_waiting
    assert output.take_unfinished() == "..."
    assert not output.is_waiting
    assert [output.add(b"done\n"), output.finish()] == ["done\n", ""]


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
    output = RankOutput()
    assert output.add("\u20ac".encode()[:2]) == ""
    assert output.finish() == "\ufffd"
    assert output.finish() == ""


def test_only_a_line_feed_ends_a_line():
    assert RankOutput().add("a\x0bb\x0cc\u2028d\x85e\nf".encode()) == "a\x0bb\x0cc\u2028d\x85e\n"
