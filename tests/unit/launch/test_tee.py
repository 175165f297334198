from __future__ import annotations

import io
import logging
import sys
from contextlib import redirect_stdout

import pytest

from notebook_accel.launch.output import RankOutput
from notebook_accel.launch.tee import teed


def test_what_is_printed_is_seen_and_kept(capsys: pytest.CaptureFixture[str]):
    copy = RankOutput()
    with teed(copy):
        print("out", end="")
        sys.stderr.write("err\n")
        sys.stdout.writelines(["gr\u00fc", "n\n"])
    print("after")
    assert copy.text() == "outerr\ngr\u00fcn\n"
    assert capsys.readouterr() == ("outgr\u00fcn\nafter\n", "err\n")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_streams_come_back_also_after_an_error(error: type[BaseException]):
    before = sys.stdout, sys.stderr
    with pytest.raises(error), teed(RankOutput()):
        assert sys.stdout is not before[0]
        raise error
    assert (sys.stdout, sys.stderr) == before


def test_everything_else_is_the_streams_own():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", write_through=True)
    with redirect_stdout(stream), teed(RankOutput()):
        assert sys.stdout.encoding == "latin-1"
        assert sys.stdout.isatty() is False
        assert sys.stdout.write("four") == 4
        sys.stdout.flush()
        assert not hasattr(sys.stdout, "no_such_thing")
    assert stream.buffer.getvalue() == b"four"


def test_text_that_is_no_utf8_is_kept_somehow():
    copy = RankOutput()
    with redirect_stdout(io.StringIO()) as seen, teed(copy):
        print("\udc80")
    assert (seen.getvalue(), copy.text()) == ("\udc80\n", "?\n")


def test_a_handler_made_inside_works_on_after_the_block(capsys: pytest.CaptureFixture[str]):
    with teed(RankOutput()):
        handler = logging.StreamHandler()
    handler.emit(logging.makeLogRecord({"msg": "late"}))
    assert capsys.readouterr().err == "late\n"
