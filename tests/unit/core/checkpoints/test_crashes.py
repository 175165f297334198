"""At whatever instant a rank dies while it saves, the last complete checkpoint is there and is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]
OLD, NEW = 1.0, 2.0


def ran(*command: str) -> Any:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("ranks", "points", "named"),
    [
        pytest.param(1, 12, "", id="numbered"),
        pytest.param(2, 5, "", id="two ranks", marks=pytest.mark.slow),
        pytest.param(1, 90, "", id="numbered, everywhere", marks=pytest.mark.slow),
        pytest.param(1, 90, "same", id="replaced, everywhere", marks=pytest.mark.slow),
        pytest.param(2, 60, "same", id="two ranks, replaced", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_wherever_a_rank_is_killed(tmp_path: Path, ranks: int, points: int, named: str) -> None:
    outcomes = ran("tests.unit.core.checkpoints.crashing", str(tmp_path), str(ranks), str(points), named)["outcomes"]
    assert len(outcomes) >= points
    # The old one until the new one is there, and nothing in between; only hidden folders are left behind.
    of_rank_0 = [value for victim, _, value, _ in outcomes if victim == 0]
    assert of_rank_0 == sorted(of_rank_0)
    assert set(of_rank_0) == {OLD, NEW}
    assert {value for _, _, value, _ in outcomes} == {OLD, NEW}
    assert [left for *_, left in outcomes if left] == []


@pytest.mark.parametrize("named", [pytest.param("", marks=pytest.mark.slow), "same"], ids=["numbered", "replaced"])
def test_nothing_is_lost_whenever_the_power_goes(tmp_path: Path, named: str) -> None:
    outcomes = ran("tests.unit.core.checkpoints.power", str(tmp_path), named)
    for names_survive in (False, True):
        values = [value for _, survive, value in outcomes if survive == names_survive]
        assert values == sorted(values)
        assert set(values) == {OLD, NEW}
