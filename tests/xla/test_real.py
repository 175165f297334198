"""With the real torch_xla on its CPU runtime: one rank, since it cannot form a world of several processes there."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.tpu_environment import cleaned
from tests.integration.kernels import Notebook, names
from tests.integration.test_launch import literal
from tests.patience import stopwatch, wait_until
from tests.xla import bodies
from tests.xla.chips import machine

pytestmark = pytest.mark.xla

SOON_SECONDS = 1.0


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "CPU")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one rank found out about everything."""
    from notebook_accel import notebook_launcher

    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PJRT_DEVICE", "CPU")
        patch.setenv("NOTEBOOK_ACCEL_HOME", str(folder / "home"))
        return notebook_launcher(bodies.everything, args=(str(folder),), devices="tpu").value


@pytest.mark.parametrize(("name", "arguments"), [("train", {}), ("accumulate", {"accumulate": 2})])
def test_training_equals_the_cpus(report: dict[str, Any], name: str, arguments: dict[str, Any]):
    from notebook_accel import notebook_launcher

    losses, state = report[name]
    expected = notebook_launcher(
        bodies.train, kwargs=arguments, devices="cpu", num_processes=1, start_method="spawn"
    ).value
    assert losses == pytest.approx(expected[0], abs=1e-5)
    for key, value in expected[1].items():
        assert (state[key] - value).abs().max() < 1e-5


def test_bf16_trains_close_by(report: dict[str, Any]):
    assert report["bf16"][0] == pytest.approx(report["train"][0], rel=0.05, abs=0.05)
    assert report["bf16"][0] != report["train"][0]


def test_fp16_is_refused(report: dict[str, Any]):
    assert report["fp16"].startswith("NotAvailableError: mixed_precision='fp16' is not possible on xla:0")
    assert "bf16" in report["fp16"]


@pytest.mark.parametrize("name", ["fresh", "stepped", "held"])
def test_weights_tied_before_prepare_stay_tied(report: dict[str, Any], name: str):
    assert report["tied"][name] == (True, True, True, 1)


def test_weights_may_be_tied_after_prepare(report: dict[str, Any]):
    assert report["tied"]["after"] == (True, True, True, 1)


def test_a_tie_that_a_move_by_hand_has_undone_is_named(report: dict[str, Any]):
    (said,) = report["by hand"]
    assert "are two on xla:0: embedding.weight and head.weight" in said
    assert "model.tie_weights()" in said


def test_an_optimizer_built_before_the_move_is_explained(report: dict[str, Any]):
    assert report["before"].startswith("ConfigError: rank 0: the optimizer holds 2 parameters that are not on xla:0")
    assert "build it after model.to(accelerator.device)" in report["before"]


def test_seeds_and_states_hold_the_devices_draws(report: dict[str, Any]):
    first, middle, again = report["random"]
    assert first != middle
    assert middle == again


def test_collectives_of_one_rank(report: dict[str, Any]):
    assert report["collectives"] == {
        "gather": [0, 1, 2],
        "sum": [0, 1, 2],
        "mean": [0.0, 1.0, 2.0],
        "max": [0, 1, 2],
        "host": [0],
        "kind": (True, "XLA"),
        "objects": [0],
        "source": 0,
        "padded": [0],
        "device": "xla",
    }


def test_gradients_are_averaged_inside_the_program(report: dict[str, Any]):
    total, calls = report["reduction"]
    assert total == 6.0
    assert calls >= 1


def test_a_checkpoint_is_gone_on_from_and_needs_no_xla(report: dict[str, Any]):
    assert report["checkpoints"] == {
        "goes on equally, block=True": True,
        "goes on equally, block=False": True,
        "on the CPU": True,
        "weights": True,
    }


def test_loaders_end_early_and_raise(report: dict[str, Any]):
    rows, raised, threads = report["loaders"]
    assert (rows, raised, threads) == ([0, 1], "KeyError('bad row')", 1)


def test_the_watch_speaks_of_a_new_shape_and_of_nothing_else(report: dict[str, Any]):
    assert report["even"] == report["accumulated"] == []
    (said,) = report["short"]
    assert "step 8 of a loop: batch[0] (8, 4) -> (5, 4); batch[1] (8, 1) -> (5, 1)" in said
    assert "drop_last=True" in said
    line = int(said.split()[0])
    assert "optimizer.step()" in Path(bodies.__file__).read_text().splitlines()[line - 1]


def test_a_second_launch_finds_the_keys_of_the_first(compilations_of_the_test: Path):
    from notebook_accel import clear_compilation_cache, notebook_launcher

    first = notebook_launcher(bodies.counters, devices="tpu").value
    second = notebook_launcher(bodies.counters, devices="tpu").value
    assert first.get("PersistentCacheMiss", 0) > 0
    # The CPU's runtime finds the program, but cannot load it; a TPU's can.
    assert second.get("PersistentCacheDeserializeFailure", 0) > 0
    assert second.get("PersistentCacheMiss", 0) == 0
    assert [folder.name for folder in compilations_of_the_test.iterdir()] == ["torch_xla-2.9.0_libtpu-none"]
    assert clear_compilation_cache() > 0
    assert not compilations_of_the_test.exists()


def test_a_log_inside_of_a_step_does_not_cut_it():
    from notebook_accel import notebook_launcher

    result = notebook_launcher(bodies.logging_inside_of_steps, args=(20,), devices="tpu")
    assert result.value <= 22, "one program for each step"
    expected = [{"total": i + 1.0, "nested": {"both": [i + 1.0, i]}, "step": i} for i in range(20)]
    assert list(result.metrics) == [*expected, {"last": "text"}]


def test_to_compile_for_long_is_not_to_hang():
    from notebook_accel import RunHung, notebook_launcher

    watched = {"devices": "tpu", "hang_timeout_seconds": 2.0, "hang_action": "stop"}
    begun = time.monotonic()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
    iterations = int(6_000_000 / (time.monotonic() - begun))  # 6 seconds of them
    notebook_launcher(bodies.compiling, args=(iterations,), **watched)
    with pytest.raises(RunHung):
        notebook_launcher(bodies.waiting_for_nobody, **watched)


def test_what_was_logged_before_a_failure_is_kept():
    from notebook_accel import RankFailed, notebook_launcher

    with pytest.raises(RankFailed, match="mine") as caught:
        notebook_launcher(bodies.failing_after_a_log, devices="tpu")
    assert list(caught.value.result.metrics) == [{"loss": 2.0}]


CELLS = """
import os, time
os.environ["PJRT_DEVICE"] = "CPU"
os.environ["TPU_PROCESS_ADDRESSES"] = "local"
from notebook_accel import *
class OwnError(Exception): pass
def add(a):
    import torch
    print("computing")
    return (torch.ones(3, device="xla") * a).sum(), os.environ.get("TPU_PROCESS_ADDRESSES")
def fail():
    raise OwnError("of the cell")  # the line
def die():
    import signal
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
def sleep():
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("notebook")
    opened = Notebook(str(folder), {"NOTEBOOK_ACCEL_HOME": str(folder / "home"), "PYTHONPATH": ":".join(sys.path)})
    try:
        opened.check(CELLS)
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_kernel_launches_as_often_as_it_wants(notebook: Notebook, method: str):
    for number in range(3):
        reply = notebook.run(
            f"r = notebook_launcher(add, ({number},), devices='tpu', start_method='{method}'); print(r.value)"
        )
        assert reply.error_name is None, reply.error_text
        assert "computing" in reply.text
        assert "left out of the ranks' environment" in reply.text
        assert f"(tensor({3 * number}.), None)" in reply.text
    assert literal(notebook.check("import sys; print('torch_xla' in sys.modules)")) is False


def test_a_failure_is_the_cells(notebook: Notebook):
    reply = notebook.run("notebook_launcher(fail, devices='tpu')")
    assert reply.error_name == "RankFailed"
    assert "OwnError: of the cell" in reply.error_text
    assert "# the line" in reply.error_text


@pytest.mark.parametrize(
    ("function", "error", "word"), [("die", "RankFailed", "SIGKILL"), ("sleep", "RunInterrupted", "sleep")]
)
def test_a_kill_and_an_interrupt_reach_the_cell_soon(notebook: Notebook, function: str, error: str, word: str):
    since: list[float] = []
    with stopwatch() as watch:

        def look(text: str) -> None:
            if "ready" in text and not since:
                since.append(watch.seconds)
                if function == "sleep":
                    notebook.interrupt()

        reply = notebook.run(f"notebook_launcher({function}, devices='tpu')", look)
        took = watch.seconds - since[0]
    assert reply.error_name in {error, "KeyboardInterrupt"}, reply.error_text
    assert word in reply.error_text
    assert took < SOON_SECONDS + 1
    assert wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 5)


def test_nothing_outlives_the_kernel(tmp_path: Path):
    opened = Notebook(str(tmp_path), {"PYTHONPATH": ":".join(sys.path)})
    try:
        opened.check(CELLS)
        opened.check(
            "run = notebook_launcher(sleep, devices='tpu', block=False)\n"
            "for text in run.output():\n    if 'ready' in text: break"
        )
        left = opened.descendants()
        assert left
        opened.kill()
        assert wait_until(lambda: names(left) == [], 3)
    finally:
        opened.close()


KAGGLE = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,4,1",
    "TPU_HOST_BOUNDS": "1,1,1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_PROCESS_ADDRESSES": "local",
    "CLOUD_TPU_TASK_ID": "0",
    "TPU_WORKER_HOSTNAMES": "WARNING: could not determine TPU worker hostnames or IP addresses, please set it",
}
TOPOLOGY = """
import json, os, sys
from torch_xla._internal import tpu
tpu.configure_topology(int(sys.argv[1]), int(sys.argv[2]))
names = "CLOUD_TPU_TASK_ID TPU_PROCESS_ADDRESSES TPU_PROCESS_BOUNDS TPU_PROCESS_PORT TPU_VISIBLE_CHIPS".split()
print(json.dumps([tpu.process_bounds_size(), *(os.environ[name] for name in names)]))
"""


@pytest.mark.parametrize(("asked", "rank", "bounds"), [(None, 3, "2,4,1"), (1, 0, "1,1,1")])
def test_what_torch_xla_makes_of_kaggles_environment(asked: int | None, rank: int, bounds: str):
    plan = make_plan(RunConfig(num_processes=asked), machine(8))
    variables, _ = cleaned({**KAGGLE, **plan.environ})
    command = [sys.executable, "-c", TOPOLOGY, str(rank), str(plan.world_size)]
    environ = {**os.environ, **variables, "PJRT_DEVICE": "CPU"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    addresses = ",".join(f"localhost:{8476 + number}" for number in range(plan.world_size))
    found = json.loads(done.stdout)
    assert found == [plan.world_size, str(rank), addresses, bounds, str(8476 + rank), str(rank)]


FORKED = """
import torch, torch_xla
from notebook_accel import NotAvailableError, notebook_launcher

def launch():
    try:
        print(notebook_launcher(lambda: "forked", devices="cpu", num_processes=1, start_method="fork").value)
    except NotAvailableError as error:
        print(error)

if __name__ == "__main__":
    launch()
    print(torch.ones(3, device="xla").sum().item())
    launch()
"""


def test_a_process_whose_runtime_is_live_is_not_forked():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [line for line in done.stdout.splitlines() if not line.startswith("notebook_accel: ")]
    assert said == [
        "forked",  # an import alone starts nothing
        "3.0",
        'start_method="fork" cannot work here: the XLA runtime is initialised in this process, and no fork can use it',
        "  -> leave start_method out, or restart the kernel and launch before using a GPU or TPU",
    ]


def test_the_check_notebook_can_be_rehearsed(tmp_path: Path):
    folder = Path(__file__).parents[2] / "notebooks"
    variables = {
        **os.environ,
        "PJRT_DEVICE": "CPU",
        "NOTEBOOK_ACCEL_HOME": str(tmp_path),
        "PYTHONPATH": ":".join(sys.path),
    }
    command = [sys.executable, str(folder / "run.py"), str(folder / "tpu_check.ipynb")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=290, check=False)
    verdict = [line for line in done.stdout.splitlines() if line.startswith(("passed", "FAILED", "NOT RUN"))]
    assert len(verdict) == 8, done.stdout + done.stderr
    (failed,) = [line for line in verdict if not line.startswith("passed")]
    assert failed.endswith("a second launch compiles nothing anew (a CPU cannot pass this)")
