from __future__ import annotations

import pytest

from notebook_accel.launch.metrics import Entry, Metrics

METRICS = Metrics([Entry(0, {"loss": 2.0}, 1), Entry(1, {"loss": 3.0}, 1), Entry(0, {"accuracy": 0.5}, None)])


def test_rank_0_is_what_is_meant_and_the_others_are_there():
    assert list(METRICS) == [{"step": 1, "loss": 2.0}, {"accuracy": 0.5}]
    assert METRICS.of_rank(1) == [{"step": 1, "loss": 3.0}]
    assert METRICS.of_rank(7) == []
    assert (len(METRICS), METRICS[-1], METRICS[:1]) == (2, {"accuracy": 0.5}, [{"step": 1, "loss": 2.0}])
    assert METRICS.column("loss") == [2.0]
    assert repr(METRICS) == "Metrics(2 rows, the last: {'accuracy': 0.5})"
    assert (repr(Metrics()), list(Metrics())) == ("Metrics(0 rows)", [])
    with pytest.raises(IndexError):
        METRICS[2]


def test_they_make_a_table():
    pandas = pytest.importorskip("pandas")
    assert list(pandas.DataFrame(METRICS).columns) == ["step", "loss", "accuracy"]
