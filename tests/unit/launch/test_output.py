from __future__ import annotations

import gc

import pytest

from notebook_accel.launch.output import RankOutput, label_of


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
