from __future__ import annotations

import os
import random
import sys
import traceback

import pytest

torch = pytest.importorskip("torch")

from notebook_accel import Accelerator, NotInWorkerError, notebook_launcher  # noqa: E402
from notebook_accel.config import RunConfig  # noqa: E402
from notebook_accel.core import runtime  # noqa: E402
from notebook_accel.errors import RankFailed, RunInterrupted  # noqa: E402
from notebook_accel.hardware.inventory import Inventory  # noqa: E402
from notebook_accel.launch.inline import InlineRun, InlineSpawner  # noqa: E402
from notebook_accel.launch.job import Call  # noqa: E402
from notebook_accel.launch.plan import make_plan  # noqa: E402


def launch(function, *args, **options):
    return notebook_launcher(function, args, num_processes=1, start_method="inline", devices="cpu", **options)


def test_it_runs_here_and_sees_what_is_here(capsys: pytest.CaptureFixture[str]):
    held = []

    def train():
        held.append(os.getpid())
        print("seen and kept")
        return held

    result = launch(train)
    assert result.value is held, "nothing is copied"
    assert held == [os.getpid()]
    assert result.logs() == "seen and kept\n"
    assert capsys.readouterr().out == "notebook_accel: 1 CPU process, in this process\nseen and kept\n"


def test_the_process_is_as_before():
    import torch

    random.seed(1)
    state = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads(), sys.stdout, dict(os.environ)
    inside = launch(lambda: (torch.get_num_threads(), random.random()), seed=7, threads_per_rank=3).value
    assert inside == (3, random.Random(7).random())
    after = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads(), sys.stdout, dict(os.environ)
    assert after == state


def test_a_failure_can_be_debugged_where_it_happened():
    def broken(depth):
        return broken(depth - 1) if depth else 1 / 0

    with pytest.raises(RankFailed, match="rank 0 of 1 failed: ZeroDivisionError") as caught:
        launch(broken, 2)
    frames = []
    traceback = caught.value.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert frames[-3:] == ["broken"] * 3


def test_an_interrupt_is_an_interrupt():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch(interrupted)


def test_no_accelerator_outlives_the_run(monkeypatch: pytest.MonkeyPatch):
    assert launch(lambda: Accelerator().num_processes).value == 1
    monkeypatch.setattr(runtime.environment, "in_notebook_kernel", lambda: True)
    monkeypatch.setattr(runtime._SLOT, "runtime", None)
    with pytest.raises(NotInWorkerError):
        Accelerator()


def start(function, *args, **options) -> InlineRun:
    plan = make_plan(RunConfig(start_method="inline", devices="cpu", **options), Inventory.fake())
    return InlineSpawner().start(plan, Call(function, args))


def test_a_value_is_the_object_itself():
    value = object()
    run = start(lambda given: given, value)
    assert run.state == "succeeded"
    assert run.result().value is value
    assert (list(run.output()), run.notices(), run.interrupt(), run.kill()) == ([], [], None, None)


def broken():
    print("before")
    raise LookupError("nothing here")


def test_a_failure_keeps_the_frames_for_the_debugger():
    run = start(broken)
    assert run.state == "failed"
    with pytest.raises(RankFailed, match="rank 0 of 1 failed: LookupError: nothing here") as caught:
        run.result()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "broken"
    assert (caught.value.rank, caught.value.world_size) == (0, 1)
    assert caught.value.result.logs() == "before\n"
    assert caught.value.result.value is None


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), AssertionError()])
def test_whatever_is_raised_is_a_failure(error: BaseException):
    def fail():
        raise error

    with pytest.raises(RankFailed, match=type(error).__name__):
        start(fail).result()


def test_an_interrupt_is_one():
    def interrupted():
        raise KeyboardInterrupt

    run = start(interrupted)
    assert run.state == "interrupted"
    with pytest.raises(RunInterrupted):
        run.result()


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_run_changes_is_changed_back(monkeypatch: pytest.MonkeyPatch, fails: bool):
    import numpy as np

    monkeypatch.setenv("MINE", "before")
    monkeypatch.setenv("RANK", "7")

    def state() -> tuple[object, ...]:
        generators = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the global generator is the point
        return dict(os.environ), os.getcwd(), generators, torch.get_num_threads(), sys.stdout, sys.stderr

    def change():
        seen.append((os.environ["RANK"], os.environ["WORLD_SIZE"], torch.get_num_threads()))
        os.environ["MINE"] = "changed"
        os.environ["NEW"] = "1"
        random.random(), torch.rand(1), np.random.rand()  # noqa: NPY002 - the global generator is the point
        if fails:
            raise ValueError

    seen: list[tuple[str, str, int]] = []
    before = state()
    run = start(change, seed=1, threads_per_rank=3)
    assert run.state == ("failed" if fails else "succeeded")
    assert seen == [("0", "1", 3)]
    assert state() == before


def test_a_seed_holds_all_generators():
    import numpy as np

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the global generator is the point

    first, again, other = (start(draw, seed=seed).result().value for seed in (2**40, 2**40, 2))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_without_a_seed_the_generators_go_on():
    random.seed(5)
    expected = random.random(), random.random()
    random.seed(5)
    assert (start(random.random).result().value, random.random()) == expected


def test_nobody_hosts_a_store_for_a_world_of_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MASTER_PORT", "1234")
    found = start(lambda: (os.environ["MASTER_PORT"], os.environ.get("TORCHELASTIC_USE_AGENT_STORE"))).result().value
    assert found == ("1234", None)


def test_output_is_seen_and_kept(capsys: pytest.CaptureFixture[str]):
    def speak():
        print("out")
        print("err", file=sys.stderr)
        sys.stdout.writelines(["a", "b"])

    assert start(speak).result().logs() == "out\nerr\nab"
    assert capsys.readouterr() == ("out\nab", "err\n")


def test_a_run_within_a_run_is_refused_or_works_and_the_outer_goes_on():
    def outer():
        with pytest.raises((RankFailed, RuntimeError)):
            start(broken).result()
        return "outer"

    assert start(outer).result().value == "outer"


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "make",
    [
        Rude,
        lambda: list(range(10**6)),
        lambda: "x" * 10**6,
        lambda: 10**5000,
        type("array", (), {}),
        lambda: torch.ones(5, 5),
    ],
    ids=["raising repr", "long list", "long text", "huge number", "class called array", "tensor"],
)
def test_any_value_shows_in_a_line(make):
    run = start(make)
    assert len(repr(run.result()).splitlines()) == 2
    assert len(repr(run.result())) < 300
