from __future__ import annotations

import sys

import psutil
import pytest

from notebook_accel.errors import ConfigError, LaunchError
from notebook_accel.launch import forkserver, warm


@pytest.mark.parametrize("preload", ["not a module", [1], 3, ["ok", "not-ok"]])
def test_a_wrong_preload_starts_nothing(preload: object):
    forkserver.shut_down()
    with pytest.raises(ConfigError, match="preload must be module names"):
        warm.warm(preload)
    assert forkserver._keeper._zygote is None


def test_notices_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(forkserver, "warm", lambda preload: asked.append(preload) or ["one", "two"])
    warm.warm(["a.b", "c"])
    assert asked == [("a.b", "c")]
    assert capsys.readouterr().out == "notebook_accel: one\nnotebook_accel: two\n"


@pytest.mark.parametrize("error", [LaunchError("broken", "hint"), ConfigError("x", "y"), OSError("no memory")])
def test_quietly_is_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
):
    def fail() -> None:
        raise error

    monkeypatch.setattr(forkserver, "warm", fail)
    assert warm.warm_quietly() is None
    assert capsys.readouterr() == ("", "")


def test_quietly_does_nothing_on_other_systems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    forkserver.shut_down()
    warm.warm_quietly()
    assert forkserver._keeper._zygote is None


def test_one_helper_is_started_and_it_is_this_processs_child():
    forkserver.shut_down()
    before = set(psutil.Process().children())
    warm.warm()
    warm.warm_quietly()
    (helper,) = set(psutil.Process().children()) - before
    assert helper.pid == forkserver._keeper._zygote.pid
    helper.kill()
    helper.wait()
    forkserver.shut_down()
    assert not helper.is_running()
