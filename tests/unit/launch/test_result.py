from __future__ import annotations

import pickle

import pytest

from notebook_accel.errors import ResultUnavailable
from notebook_accel.launch.output import RankOutput
from notebook_accel.launch.result import RunResult, Value
from notebook_accel.wire.parcel import Parcel
from notebook_accel.wire.pickling import JobPickler


class Counted:
    rebuilt = 0

    def __setstate__(self, state: object) -> None:
        Counted.rebuilt += 1

    def __getstate__(self) -> object:
        return 1


def result_of(*values: Value) -> RunResult[object]:
    outputs = tuple(RankOutput() for _ in values)
    outputs[0].add(b"one\ntwo")
    return RunResult(values, outputs, 1.234)


def test_values_are_decoded_once_and_only_when_read():
    Counted.rebuilt = 0
    result = result_of(Value("a", Parcel(pickle.dumps(Counted()))), Value("b", Parcel(pickle.dumps(2))))
    repr(result), result._repr_html_(), len(result)
    assert Counted.rebuilt == 0
    assert result[1] == 2
    assert Counted.rebuilt == 0
    assert result.value is result[0]
    assert Counted.rebuilt == 1


def test_a_value_that_is_not_there_raises_each_time_and_spares_the_others():
    problem = ResultUnavailable("rank 0: lost", "look elsewhere")
    result = result_of(Value("<lost>", problem=problem), Value("x", Parcel(pickle.dumps("x"))))
    for _ in range(2):
        with pytest.raises(ResultUnavailable, match="rank 0: lost"):
            _ = result.value
    assert result[1] == "x"


def test_a_value_that_cannot_be_rebuilt_here_is_named():
    result = result_of(Value("?", Parcel(b"cno_such_module\nThing\n.")))
    for _ in range(2):
        with pytest.raises(ResultUnavailable, match="rank 0 returned cannot be rebuilt here: ModuleNotFoundError"):
            _ = result.value


@pytest.mark.parametrize("rank", [-1, 2, 10])
def test_there_is_no_such_rank(rank: int):
    result = result_of(Value("1"), Value("2"))
    with pytest.raises(IndexError, match=f"rank {rank} is not one of the run's ranks 0..1"):
        result[rank]
    with pytest.raises(IndexError, match="ranks 0..1"):
        result.logs(rank)


def test_how_it_shows_itself():
    result = result_of(Value("{'a': 1}"), Value("<i>"))
    assert repr(result) == "RunResult(2 ranks, 1.23 s)\n  rank 0: {'a': 1}\n  rank 1: <i>"
    page = result._repr_html_()
    assert "<i>" not in page
    assert "&lt;i&gt;" in page
    assert '<th scope="row">1</th>' in page
    assert "<td>2</td>" in page, "lines printed by rank 0"


class Announced:
    def __reduce__(self):
        return print, ("decoded",)


class Unbuildable:
    def __reduce__(self):
        return int, ("not a number",)


def sent(value: object, preview: str = "?") -> Value:
    return Value(preview, JobPickler().parcel(value))


def result(*values: Value, printed: bytes = b"") -> RunResult:
    outputs = [RankOutput() for _ in values]
    for output in outputs:
        output.add(printed)
    return RunResult(values, tuple(outputs), 1.234)


def test_values_by_rank():
    run = result(sent("a"), sent([1]), Value.present(None, "None"))
    assert (run.value, run[1], run[2], len(run), list(run)) == ("a", [1], None, 3, ["a", [1], None])
    assert run[1] is run[1], "a value is one object, however often it is read"


def test_a_value_is_decoded_when_it_is_first_read_and_once(capsys: pytest.CaptureFixture[str]):
    run = result(sent(Announced()), sent(Announced()))
    assert len(run) == 2
    assert "?" in repr(run)
    assert "?" in run._repr_html_()
    assert capsys.readouterr().out == ""
    assert [run[1], run[1]] == [None, None]
    assert capsys.readouterr().out == "decoded\n"


def test_a_value_that_cannot_be_rebuilt_says_why_each_time_and_harms_no_other():
    run = result(sent(Unbuildable()), sent(2))
    for _ in range(2):
        with pytest.raises(ResultUnavailable, match="rank 0 returned cannot be rebuilt here: ValueError") as caught:
            run[0]
        assert caught.value.hint
    assert run[1] == 2
    with pytest.raises(ResultUnavailable):
        list(run)


def test_logs():
    run = result(sent(1), sent(2), printed="gr\u00fcn\n".encode() + b"\xff")
    assert run.logs() == run.logs(0) == run.logs(1) == "gr\u00fcn\n\ufffd"


def test_how_one_and_two_ranks_show():
    assert repr(result(sent(1, "one"))) == "RunResult(1 rank, 1.23 s)\n  rank 0: one"
    assert repr(result(sent(1, "one"), sent(2, "<two>"))).splitlines() == [
        "RunResult(2 ranks, 1.23 s)",
        "  rank 0: one",
        "  rank 1: <two>",
    ]


def test_a_page_shows_text_as_text():
    page = result(
        sent(1, "<script>alert('x')</script> & \"co\""), sent(2, "plain"), printed=b"a\n" * 1500
    )._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;co&quot;" in page
    assert page.count("<tr>") == 3
    assert page.count("<td>1,500</td>") == 2
    assert "2 ranks in 1.23 s" in page
