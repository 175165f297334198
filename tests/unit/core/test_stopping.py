from __future__ import annotations

import signal
import time

import psutil
import pytest
import torch

from notebook_accel.backends.single import SingleBackend
from notebook_accel.core.accelerator import Accelerator
from notebook_accel.core.runtime import Runtime, activate
from notebook_accel.core.stopping import StopRequest, seconds_left
from notebook_accel.errors import ConfigError
from notebook_accel.world import World


class Counting(SingleBackend):
    """Counts the exchanges, and lets another rank have been asked in the second."""

    exchanges = 0

    def all_reduce(self, tensor: torch.Tensor, op: str = "sum") -> torch.Tensor:
        assert op == "max"
        self.exchanges += 1
        return torch.ones_like(tensor) if self.exchanges == 2 else tensor


def test_all_stop_when_one_was_asked_and_need_no_further_exchange():
    backend = Counting(World())
    request = StopRequest(lambda: False, backend)
    assert [request.is_agreed() for _ in range(4)] == [False, True, True, True]
    assert backend.exchanges == 2
    request.close()


def test_an_accelerator_asks_its_runtime():
    asked: list[bool] = []
    with activate(Runtime(World(), asked_to_stop=lambda: bool(asked))) as runtime:
        accelerator = Accelerator(cpu=True)
        assert accelerator.should_stop is False
        asked.append(True)
        assert accelerator.should_stop is True
        asked.clear()
        assert accelerator.should_stop is True, "what was agreed stands"
        runtime.finish()
    with activate(Runtime(World())) as runtime:
        assert Accelerator(cpu=True).should_stop is False
        runtime.finish()


def test_a_run_has_its_time(runtime: Runtime):
    assert Accelerator(time_limit_seconds=1e-9).should_stop is True
    assert Accelerator(time_limit_seconds=3600).should_stop is False
    runtime.finish()
    for wrong in (0, -1.0, float("inf"), True, "long"):
        with pytest.raises(ConfigError, match="time_limit_seconds is"):
            Accelerator(time_limit_seconds=wrong)


def test_a_session_of_kaggle_has_its_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    with pytest.raises(ConfigError, match="known of Kaggle only"):
        seconds_left("platform")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    age = time.time() - psutil.Process(1).create_time()
    assert seconds_left("platform") == pytest.approx(12 * 3600 - 600 - age, abs=5)
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    assert seconds_left("platform") == pytest.approx(9 * 3600 - 600 - age, abs=5)


def test_the_first_sigterm_asks_and_the_second_ends():
    request = StopRequest(None, SingleBackend(World()))
    before = signal.getsignal(signal.SIGTERM)
    assert not request.is_agreed()
    signal.raise_signal(signal.SIGTERM)
    assert request.is_agreed()
    assert signal.getsignal(signal.SIGTERM) == before == signal.SIG_DFL


def test_where_a_launcher_asks_sigterm_stays_what_ends_native_code():
    request = StopRequest(lambda: False, SingleBackend(World()))
    assert not request.is_agreed()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    request.close()


def test_a_handler_of_the_users_own_stays():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    request = StopRequest(None, SingleBackend(World()))
    assert not request.is_agreed()
    signal.raise_signal(signal.SIGTERM)
    assert not request.is_agreed()
    request.close()
    assert heard == [signal.SIGTERM]
    signal.signal(signal.SIGTERM, before)
