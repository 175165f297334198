from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import types
import warnings

import pytest

from notebook_accel import process
from tests.unit.worker.forks import in_a_fork, in_a_fresh_process


@pytest.mark.skipif(sys.platform != "linux", reason="it counts in /proc")
def test_threads_are_counted():
    before = process.native_thread_count()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert process.native_thread_count() == before + 1
    stop.set()
    thread.join()
    assert in_a_fork(process.native_thread_count) == 1, "a fork has one"


def test_a_fresh_process_has_nothing_that_a_fork_could_not_take():
    code = "from notebook_accel import process; print(process.live_accelerator())"
    assert in_a_fresh_process(code) == "None"


def test_torch_that_was_only_imported_has_initialised_nothing():
    pytest.importorskip("torch")
    code = "import torch; from notebook_accel import process; print(process.live_accelerator())"
    assert in_a_fresh_process(code) == "None"


@pytest.mark.parametrize(("answer", "said"), [(0, "the CUDA driver"), (3, "None"), (100, "the CUDA driver")])
def test_the_driver_is_asked_without_being_started(tmp_path, answer: int, said: str):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler")
    source = tmp_path / "cuda.c"
    source.write_text(
        "static int calls = 0;\n"
        "int calls_so_far(void) { return calls; }\n"
        f"int cuDeviceGetCount(int *count) {{ calls++; *count = 1; return {answer}; }}\n"
        "int cuInit(unsigned flags) { __builtin_trap(); }\n"
    )
    library = tmp_path / "libcuda.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True, timeout=60
    )
    code = (
        "import ctypes; from notebook_accel import process\n"
        "before = process.live_accelerator()\n"
        "driver = ctypes.CDLL('libcuda.so.1')\n"
        "print(before, process.live_accelerator(), driver.calls_so_far(), sep='|')"
    )
    environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"None|{said}|1"


@pytest.mark.parametrize(("live", "said"), [(True, "the TPU (through torch_tpu)"), (False, None)])
def test_torch_tpus_own_answer_counts(monkeypatch: pytest.MonkeyPatch, live: bool, said: str | None):
    torch = pytest.importorskip("torch")

    def is_initialized() -> bool:
        warnings.warn("the question is experimental", stacklevel=2)
        return live

    monkeypatch.setattr(torch, "tpu", types.SimpleNamespace(is_initialized=is_initialized), raising=False)
    assert process.live_accelerator() == said


@pytest.mark.parametrize(("live", "said"), [(True, "the XLA runtime"), (False, None)])
def test_xlas_own_answer_counts(monkeypatch: pytest.MonkeyPatch, live: bool, said: str | None):
    stand_in = types.ModuleType("torch_xla")
    stand_in._XLAC = types.SimpleNamespace(_xla_runtime_is_initialized=lambda: live)
    monkeypatch.setitem(sys.modules, "torch_xla", stand_in)
    assert process.live_accelerator() == said
    del stand_in._XLAC
    assert process.live_accelerator() is None, "a version without the question"
