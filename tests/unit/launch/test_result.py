from __future__ import annotations

import pickle

import pytest

from notebook_accel.errors import ResultUnavailable
from notebook_accel.launch.output import RankOutput
from notebook_accel.launch.result import RunResult, Value
from notebook_accel.wire.parcel import Parcel


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
