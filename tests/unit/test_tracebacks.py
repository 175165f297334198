from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest

from notebook_accel.errors import ConfigError, RankFailed, RunInterrupted
from notebook_accel.launch.interrupts import CellInterrupted
from notebook_accel.traces import Frame, Trace
from notebook_accel.wire.outcome import Failure

SOURCE = tuple(f"line {number}" for number in range(1, 8))
LIBRARY = "/usr/lib/python3/dist-packages/torch/nn/modules/module.py"


def frame(function: str, line: int = 4, **more: object) -> Frame:
    return Frame(
        **{"file": "/data/train.py", "source": SOURCE, "arguments": ("x",), **more}, function=function, line=line
    )


def library(function: str = "_call_impl", file: str = LIBRARY) -> Frame:
    return frame(function, file=file, users=False)


def failed(
    *frames: Frame, text: str = "ValueError: bad", others: tuple[Failure, ...] = (), **more: object
) -> list[str]:
    trace = Trace(text=text, frames=frames, left_out_lines=more.pop("left_out_lines", 0))
    chain = (*more.pop("before", ()), trace)
    failure = Failure(rank=1, headline=text.splitlines()[0], hint="look", at_seconds=1.0, chain=chain, **more)
    return RankFailed((failure, *others), 4)._render_traceback_()


def test_the_users_line_is_shown_as_ipython_shows_it():
    assert failed(frame("train")) == [
        "RankFailed: rank 1 of 4 failed first: ValueError: bad",
        "File /data/train.py:4, in train(x)",
        "      2 line 2",
        "      3 line 3",
        "----> 4 line 4",
        "      5 line 5",
        "      6 line 6",
        "",
        "ValueError: bad",
        "  -> look",
    ]


def test_runs_of_library_frames_are_folded_but_the_innermost_one_is_shown():
    lines = failed(frame("train"), library(), library(), library(file=LIBRARY.replace("module.py", "linear.py")))
    assert "... 2 frames in torch/nn/modules/module.py ..." in lines
    at = lines.index("File torch/nn/modules/linear.py:4, in _call_impl(x)")
    assert lines[at + 1 : at + 3] == ["----> 4 line 4", ""]
    lines = failed(frame("train"), library(), library(file="<frozen x>"), frame("forward"))
    assert "... 2 frames in torch/nn/modules/module.py and 1 other file ..." in lines


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 10, 30, 200])
def test_however_deep_it_is_it_takes_25_lines_at_most(depth: int):
    frames = [part for number in range(depth) for part in (frame(f"f{number}"), library())]
    lines = failed(*frames, frame("innermost", line=5))
    assert len(lines) <= 25
    assert any("in innermost(x)" in line for line in lines)
    assert any("in f0(x)" in line for line in lines), "where it began is told too"


def test_the_part_that_ran_is_marked_only_in_colour(monkeypatch: pytest.MonkeyPatch):
    shell = types.SimpleNamespace(colors="Neutral", compile=None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    lines = failed(frame("train", columns=(0, 4)))
    assert "\x1b[32m----> 4\x1b[39m \x1b[43mline\x1b[49m 4" in lines
    assert lines[0].startswith("\x1b[31mRankFailed\x1b[39m: ")
    shell.colors = "NoColor"
    assert not any("\x1b" in line for line in failed(frame("train", columns=(0, 4))))


def test_frames_in_a_row_and_frames_of_which_little_is_known():
    lines = failed(frame("again", times=990), frame("native", source=(), arguments=None))
    assert "File /data/train.py:4, in again(x), 990 times in a row" in lines
    assert "File /data/train.py:4, in native" in lines


def test_a_long_text_is_cut_with_a_note_of_where_all_of_it_is():
    lines = failed(frame("train"), text="ValueError: " + "\n".join(["x" * 900] * 40), left_out_lines=9960)
    assert len(lines) <= 25
    assert "... 9,988 more lines; sys.last_value.failures[0].traceback has all ..." in lines
    assert max(map(len, lines)) < 300


def test_a_line_in_which_two_frames_are_is_shown_once():
    lines = failed(frame("train"), frame("<listcomp>", arguments=()))
    assert lines[1:3] == ["File /data/train.py:4, in train(x)", "File /data/train.py:4, in <listcomp>()"]
    assert lines.count("----> 4 line 4") == 1


def test_what_led_to_it_is_told_in_short():
    before = Trace(text="KeyError: 'a'", frames=(frame("look"),), leads="cause")
    lines = failed(frame("train"), before=(before,))
    assert lines[1:4] == ["File /data/train.py:4, in look(x)", "----> 4 line 4", "KeyError: 'a'"]
    assert "The above exception was the direct cause of the following one:" in lines
    assert len(lines) <= 25


def test_others_share_a_line_when_they_say_the_same():
    def other(rank: int, port: int) -> Failure:
        text = f"RuntimeError: [/third_party/gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:{port}. GLHF!"
        return Failure(rank=rank, headline=text, hint="h", at_seconds=2.0, knock_on=True)

    own = replace(other(2, 1), headline="KeyError: 'a'", knock_on=False)
    lines = failed(frame("train"), others=(other(0, 4711), own, other(3, 4712)))
    assert lines[-3:] == [
        "ranks 0 and 3 afterwards: RuntimeError: Connection closed by peer",
        "rank 2 afterwards: KeyError: 'a'",
        "  -> look",
    ]


def test_a_failure_without_frames_shows_its_text():
    failure = Failure(rank=0, headline="the process was killed by SIGKILL", hint="look", at_seconds=1.0)
    assert RankFailed((failure,), 1)._render_traceback_() == [
        "RankFailed: rank 0 of 1 failed: the process was killed by SIGKILL",
        "  -> look",
    ]


def test_names_of_cells_stand_in_texts_too(monkeypatch: pytest.MonkeyPatch):
    compiler = types.SimpleNamespace(format_code_name=lambda _: ("Cell", "In[3]"))
    shell = types.SimpleNamespace(colors="nocolor", compile=compiler)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert "ValueError: (Cell In[3], line 5, in f)" in failed(
        text='ValueError: (File "/tmp/ipykernel_1/2.py", line 5, in f)'
    )


def test_a_hint_is_said_once():
    text = "notebook_accel.errors.ConfigError: no\n  -> look"
    assert failed(frame("train"), text=text).count("  -> look") == 1


def test_an_error_of_the_launcher_shows_the_users_frames_that_led_to_it():
    from notebook_accel.config import RunConfig

    def fit() -> None:
        RunConfig(num_processes=-1)

    with pytest.raises(ConfigError) as caught:
        fit()
    lines = caught.value._render_traceback_()
    assert any(line.endswith("in fit()") for line in lines)
    assert any(line.startswith("--") and "RunConfig(num_processes=-1)" in line for line in lines)
    assert not any("config.py" in line or "__init__" in line for line in lines)
    assert lines[-2:] == ["ConfigError: num_processes must be 1 or more, not -1", "  -> for example num_processes=2"]


def test_a_cause_in_the_users_code_is_never_hidden():
    def getstate() -> None:
        raise LookupError("not that one")

    def launch() -> None:
        try:
            getstate()
        except LookupError as error:
            raise ConfigError("cannot travel", "leave it out") from error

    with pytest.raises(ConfigError) as caught:
        launch()
    lines = caught.value._render_traceback_()
    assert any("in getstate()" in line for line in lines)
    assert "LookupError: not that one" in lines


def test_an_error_that_was_never_raised_and_one_that_cannot_be_shown():
    assert ConfigError("what", "hint")._render_traceback_() == ["ConfigError: what", "  -> hint"]
    broken = RankFailed((Failure(rank=0, headline="x", hint="h", at_seconds=0.0, chain=(object(),)),), 1)
    assert broken._render_traceback_() == ["RankFailed: rank 0 of 1 failed: x", "  -> h"]


def test_an_interrupt_is_called_by_its_usual_name():
    interrupt = CellInterrupted(RunInterrupted("train was interrupted", "run it again", {0: "in train"}))
    assert isinstance(interrupt, KeyboardInterrupt)
    assert type(interrupt).__name__ == "KeyboardInterrupt"
    assert interrupt._render_traceback_() == ["KeyboardInterrupt: train was interrupted", "  rank 0: in train"]
