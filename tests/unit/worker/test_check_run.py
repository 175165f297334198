from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest
from torch import Tensor

from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.worker import check_run
from notebook_accel.world import World
from tests.ranks import RunOnRanks


@pytest.fixture
def alone() -> Iterator[Accelerator]:
    with activate(Runtime(World())):
        yield Accelerator()


@pytest.mark.parametrize(("name", "check"), check_run.CHECKS)
def test_a_sound_world_passes(alone: Accelerator, name: str, check: check_run.Check) -> None:
    assert check(alone) == "", name


def test_training_that_goes_wrong_is_noticed(alone: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "backward", lambda _, loss: (1.01 * loss).backward())
    assert "weights differ by" in check_run.training_is_that_of_one_process(alone)


def test_a_loss_that_is_no_number_is_noticed(alone: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = check_run.nn.functional.mse_loss

    def broken(x: Tensor, y: Tensor) -> Tensor:
        return wrong(x, y) * float("nan")

    monkeypatch.setattr(check_run.nn.functional, "mse_loss", broken)
    assert check_run.precision_works(alone) == "the loss is nan"


@pytest.mark.parametrize(("ranks", "kind"), [("2", "cpu"), ("1", "cuda")])
def test_another_world_than_the_launched_one_is_noticed(alone: Accelerator, ranks: str, kind: str) -> None:
    assert check_run.world_is(alone, "1", "cpu") == ""
    assert "not ('" in check_run.world_is(alone, ranks, kind)


def verdict_with_one_unhappy_rank() -> tuple[int, str]:
    def unhappy(accelerator: Accelerator) -> str:
        return "as asked" if accelerator.process_index == 1 else ""

    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = check_run.verdict([("unhappy", unhappy), *check_run.CHECKS[:2]])
    return code, said.getvalue()


def test_what_one_rank_finds_fails_the_check_on_all(run_on_ranks: RunOnRanks) -> None:
    said = run_on_ranks(verdict_with_one_unhappy_rank)
    first, second = (each["verdict_with_one_unhappy_rank"] for each in said)
    assert (first[0], second) == (1, (1, ""))
    assert first[1].splitlines()[1:] == [
        "FAILED: unhappy; rank 1: as asked",
        "ok: ranks add up",
        "ok: ranks are gathered",
        "1 of 3 checks failed",
    ]
