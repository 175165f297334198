from __future__ import annotations

from dataclasses import replace

import pytest

from notebook_accel.launch.zygote import ZygoteKey, search_path

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
