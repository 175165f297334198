from __future__ import annotations

import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from notebook_accel.errors import LaunchError
from notebook_accel.launch.interpreter import search_path
from notebook_accel.launch.zygote import Zygote, ZygoteKeeper, ZygoteKey

KEY = ZygoteKey("python", "/site/torch/__init__.py", (("KMP_BLOCKTIME", "1"),), ("numpy",))


@pytest.mark.parametrize(
    ("wanted", "serves", "difference"),
    [
        (KEY, True, None),
        (replace(KEY, preload=()), True, None),
        (replace(KEY, preload=("numpy", "pandas")), False, "to preload more"),
        (replace(KEY, torch_origin="/other/torch/__init__.py"), False, "another torch is found first"),
        (replace(KEY, variables=()), False, "KMP_BLOCKTIME changed"),
        (
            replace(KEY, variables=(("KMP_BLOCKTIME", "2"), ("LD_PRELOAD", "x"))),
            False,
            "KMP_BLOCKTIME, LD_PRELOAD changed",
        ),
    ],
)
def test_when_a_helper_serves_a_launch(wanted: ZygoteKey, serves: bool, difference: str | None):
    assert KEY.serves(wanted) is serves
    if difference is not None:
        assert wanted.difference(KEY) == difference


def test_thread_counts_are_no_reason_for_another_helper(monkeypatch: pytest.MonkeyPatch):
    before = ZygoteKey.of_this_process(())
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert ZygoteKey.of_this_process(()) == before
    monkeypatch.setenv("TORCH_SHOW_CPP_STACKTRACES", "1")
    assert ZygoteKey.of_this_process(()) != before


def test_the_working_directory_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert str(tmp_path) in search_path()
    assert "" not in search_path()


LOADED = ZygoteKey("/bin/python", "/lib/torch.py", (("KMP_BLOCKTIME", "1"), ("LD_PRELOAD", "x")), ("a", "b"))


@pytest.mark.parametrize(
    ("wanted", "serves"),
    [
        ({}, True),
        ({"preload": ()}, True),
        ({"preload": ("b",)}, True),
        ({"preload": ("b", "a")}, True),
        ({"preload": ("a", "c")}, False),
        ({"executable": "/usr/bin/python"}, False),
        ({"torch_origin": None}, False),
        ({"variables": ()}, False),
        ({"variables": (("KMP_BLOCKTIME", "2"), ("LD_PRELOAD", "x"))}, False),
    ],
    ids=str,
)
def test_whom_a_helper_serves(wanted: dict[str, object], serves: bool):
    assert LOADED.serves(replace(LOADED, **wanted)) is serves


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"variables": (("KMP_BLOCKTIME", "2"), ("LD_PRELOAD", "x"))}, "KMP_BLOCKTIME changed"),
        ({"variables": ()}, "KMP_BLOCKTIME, LD_PRELOAD changed"),
        ({"torch_origin": "/elsewhere/torch.py"}, "another torch is found first"),
        ({"preload": ("a", "b", "c")}, "to preload more"),
        ({"variables": (), "torch_origin": None, "preload": ()}, "KMP_BLOCKTIME, LD_PRELOAD changed"),
    ],
    ids=str,
)
def test_the_difference_in_words(other: dict[str, object], words: str):
    assert LOADED.difference(replace(LOADED, **other)) == replace(LOADED, **other).difference(LOADED) == words


def test_what_a_helper_is_loaded_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = ZygoteKey.of_this_process(("a",))
    assert (before.executable, before.preload) == (sys.executable, ("a",))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MY_OWN"):
        monkeypatch.setenv(name, "7")
    assert ZygoteKey.of_this_process(("a",)) == before, "the helper has its own thread counts"
    monkeypatch.setenv("KMP_AFFINITY", "none")
    assert ZygoteKey.of_this_process(("a",)).difference(before) == "KMP_AFFINITY changed"
    monkeypatch.delenv("KMP_AFFINITY")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (tmp_path / "torch.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert ZygoteKey.of_this_process(("a",)).torch_origin == str(tmp_path / "torch.py")


@pytest.fixture
def broken_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.99 is missing')\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_helper_that_cannot_import_says_why(broken_torch: None):
    zygote = Zygote(ZygoteKey.of_this_process(()))
    try:
        for _ in range(2):
            with pytest.raises(LaunchError, match="libcudart.so.99 is missing") as caught:
                zygote.preloaded()
            assert "mend the installation" in caught.value.hint
        zygote._process.wait()
        assert not zygote.is_alive()
        assert "exit code 1" in str(zygote.broken())
    finally:
        zygote.close()


def test_a_helper_that_was_killed_is_broken_and_the_keeper_starts_another(broken_torch: None):
    keeper = ZygoteKeeper()
    assert keeper.warm() == []
    first = keeper._zygote
    first._process.wait()
    assert keeper.warm() == ["the helper process had ended and is started anew"]
    assert keeper._zygote is not first
    assert first._control.fileno() == -1, "its descriptors are closed"
    keeper._zygote._process.wait()
    keeper.shut_down()
    assert keeper._zygote is None
    keeper.shut_down()


def test_a_helper_lies_outside_the_kernels_session_and_dies_with_its_handle(broken_torch: None):
    zygote = Zygote(ZygoteKey.of_this_process(()))
    assert os.getsid(zygote.pid) == zygote.pid
    process = zygote._process
    process.kill()
    process.wait()
    zygote.close()
    zygote.close()
    assert (zygote._log.closed, process.returncode) == (True, -9)


def test_a_forked_child_lets_go_of_the_parents_helper(broken_torch: None):
    keeper = ZygoteKeeper()
    keeper.warm()
    zygote = keeper._zygote
    zygote._process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads
        pid = os.fork()
    if pid == 0:
        keeper.forget()
        let_go = keeper._zygote is None and zygote._control.fileno() == -1 and not zygote._finalizer.alive
        os._exit(0 if let_go and keeper._lock.acquire(blocking=False) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert zygote._control.fileno() != -1
    keeper.shut_down()
