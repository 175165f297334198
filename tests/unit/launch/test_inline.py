from __future__ import annotations

import os
import random
import sys

import pytest

pytest.importorskip("torch")

from notebook_accel import Accelerator, NotInWorkerError, RankFailed, notebook_launcher
from notebook_accel.core import runtime


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
