"""How runs, ranks, helpers and kernels end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.kernels import Notebook, names
from tests.integration.test_launch import literal
from tests.patience import wait_until

SLEEPERS = """
from notebook_accel import *
def sleepers(kind):
    import os, time, torch, torch.distributed as dist
    from torch.utils.data import DataLoader
    if kind == "collective":
        dist.init_process_group()
    loader = iter(DataLoader(range(10**9), num_workers=2)) if kind == "workers" else None
    print("ready", flush=True)
    if kind == "collective" and dist.get_rank() == 0:
        dist.barrier()
    while kind == "native":
        torch.randn(3000, 3000) @ torch.randn(3000, 3000)
    for _ in loader or ():
        pass
    time.sleep(600)
"""


def interrupt_when_ready(notebook: Notebook) -> object:
    pressed = []

    def press(text: str) -> None:
        if text.count("ready") == 2 and not pressed:
            pressed.append(True)
            notebook.interrupt()

    return press


@pytest.mark.parametrize("kind", ["sleep", "collective", "native", "workers"])
def test_a_plain_interrupt_ends_every_rank(notebook: Notebook, kind: str) -> None:
    notebook.check(SLEEPERS)
    reply = notebook.run(f"notebook_launcher(sleepers, ({kind!r},), 2)", interrupt_when_ready(notebook))  # type: ignore[arg-type]
    assert reply.error_name == "KeyboardInterrupt"
    assert wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 5), notebook.descendants()
    assert literal(notebook.check("print(list(notebook_launcher(lambda: 1, num_processes=2)))")) == [1, 1]


def test_a_rank_cleans_up_when_it_is_interrupted(notebook: Notebook) -> None:
    reply = notebook.run(
        "def careful():\n"
        "    import time\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(600)\n"
        "    finally:\n"
        "        print('cleaned up')\n"
        "notebook_launcher(careful, num_processes=2)",
        interrupt_when_ready(notebook),  # type: ignore[arg-type]
    )
    assert reply.text.count("cleaned up") == 2


def test_a_strangers_interrupt_is_not_the_ranks(notebook: Notebook) -> None:
    text = notebook.check(
        "def struck():\n"
        "    import os, signal, time\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.1)\n"
        "    return 'unharmed'\n"
        "print(list(notebook_launcher(struck, num_processes=2)))"
    )
    assert literal(text) == ["unharmed", "unharmed"]


@pytest.mark.parametrize("kind", [pytest.param("sleep", marks=pytest.mark.slow), "native", "workers"])
@pytest.mark.parametrize("inheritor", [False, True])
def test_nothing_is_alive_three_seconds_after_the_kernel_was_killed(
    fresh_notebook: Notebook, kind: str, inheritor: bool
) -> None:
    if inheritor and kind != "native":
        pytest.skip("one kind shows that inherited sockets do not matter")
    notebook = fresh_notebook
    if inheritor:  # a process that the kernel has forked holds copies of every socket of the kernel
        notebook.check("import os, time\npid = os.fork()\nif pid == 0:\n    time.sleep(20); os._exit(0)")
    notebook.check(SLEEPERS)
    killed: list[psutil.Process] = []

    def kill(text: str) -> None:
        if text.count("ready") == 2 and not killed:
            killed.extend(notebook.descendants())
            notebook.kill()

    if inheritor:
        notebook.check("warm()")
        notebook.check("import os, time\nif os.fork() == 0:\n    time.sleep(20); os._exit(0)")
    notebook.client.execute(f"notebook_launcher(sleepers, ({kind!r},), 2)")
    text = ""
    while not killed:
        message = notebook.client.get_iopub_msg(timeout=60)
        text += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
        kill(text)
    ours = [process for process in killed if re.search("nbacc|pt_data_worker", process.name())]
    assert len(ours) == 2 + 2 * (1 + (2 if kind == "workers" else 0)), "helper, supervisor, ranks and their workers"
    assert wait_until(lambda: not names(ours), 3), names(ours)
    for process in set(killed).difference(ours):
        process.kill()


def slow(value: str) -> object:
    return pytest.param(value, marks=pytest.mark.slow)


SLOW_SPAWN = slow("spawn")


def while_it_runs(notebook: Notebook, method: str, then: Callable[[], object]) -> list[psutil.Process]:
    """Run sleepers with a start method, do something once they are there, and give what lived below the kernel then."""
    notebook.check(SLEEPERS + "warm()")
    ranks = 1 if method == "inline" else 2
    notebook.client.execute(f"notebook_launcher(sleepers, ('sleep',), {ranks}, start_method={method!r})")
    text = ""
    while text.count("ready") < ranks:
        message = notebook.client.get_iopub_msg(timeout=60)
        text += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
    alive = notebook.descendants()
    assert len(alive) >= (1 if method == "inline" else 3), alive
    then()
    return alive


@pytest.mark.parametrize("method", ["forkserver", "fork", SLOW_SPAWN, "inline"])
@pytest.mark.parametrize(
    "ending",
    [
        "killed",
        *(pytest.param(ending, marks=pytest.mark.slow) for ending in ("restarted", "restarted at once", "shut down")),
    ],
)
def test_nothing_is_alive_three_seconds_after_the_kernel_has_ended(
    fresh_notebook: Notebook, method: str, ending: str
) -> None:
    manager = fresh_notebook.manager
    manager.shutdown_wait_time = 1.0  # a kernel that runs a cell does not obey: it is killed then
    end = {
        "killed": fresh_notebook.kill,
        "restarted": manager.restart_kernel,
        "restarted at once": lambda: manager.restart_kernel(now=True),
        "shut down": manager.shutdown_kernel,
    }[ending]
    before = while_it_runs(fresh_notebook, method, end)
    assert wait_until(lambda: not names(before), 3), names(before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "fork", SLOW_SPAWN])
def test_the_parent_of_the_ranks_is_killed(fresh_notebook: Notebook, method: str) -> None:
    def kill_supervisor() -> None:
        next(p for p in fresh_notebook.descendants() if _is_supervisor(p)).kill()

    alive = while_it_runs(fresh_notebook, method, kill_supervisor)
    ranks = [process for process in alive if "rank" in process.name() or _is_supervisor(process)]
    assert wait_until(lambda: not names(ranks), 3), names(ranks)


def _is_supervisor(process: psutil.Process) -> bool:
    return "supervise" in process.name()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "fork", "spawn"])
def test_nothing_is_alive_after_whoever_started_the_kernel_was_killed(tmp_path: Path, method: str) -> None:
    script = (
        "import time\n"
        "from tests.integration.kernels import Notebook, names\n"
        f"notebook = Notebook({str(tmp_path)!r})\n"
        "notebook.check('from notebook_accel import *; import time')\n"
        "notebook.check('def sleep(): time.sleep(600)')\n"
        f"notebook.check('run = notebook_launcher(sleep, (), 2, block=False, start_method=\"{method}\")')\n"
        "while sum('rank' in name for name in names(notebook.descendants())) < 2: time.sleep(0.01)\n"
        "print(notebook.pid, *(process.pid for process in notebook.descendants()), flush=True)\n"
        "time.sleep(600)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root, text=True) as server:
        assert server.stdout is not None
        ours = [psutil.Process(int(pid)) for pid in server.stdout.readline().split()]
        server.kill()
    assert len(ours) >= 4
    assert wait_until(lambda: not names(ours), 1 + 3), names(ours)  # the kernel looks for its parent once a second


@pytest.mark.slow
def test_a_run_goes_on_without_the_helper_and_the_next_launch_starts_one(fresh_notebook: Notebook) -> None:
    fresh_notebook.check(
        "from notebook_accel import *\n"
        "def patient(path):\n"
        "    print('ready', flush=True)\n"
        "    with open(path) as gate: gate.read()\n"
        "    return 'kept'\n"
        "import os; os.mkfifo('gate')\n"
        "run = notebook_launcher(patient, ('gate',), 1, block=False)\n"
        "for text in run.output():\n"
        "    if 'ready' in text: break"
    )
    next(p for p in fresh_notebook.descendants() if p.name() == "nbacc-zygote").kill()
    text = fresh_notebook.check("open('gate', 'w').close(); print(run.result().value)")
    assert text == "kept\n"
    text = fresh_notebook.check("print(list(notebook_launcher(lambda: 1, num_processes=2)))")
    assert "the helper process had ended" in text
    assert literal(text) == [1, 1]


@pytest.mark.slow
def test_the_helper_ends_with_a_kernel_that_ends_well(fresh_notebook: Notebook) -> None:
    fresh_notebook.check("from notebook_accel import *\nnotebook_launcher(lambda: 0, num_processes=2)")
    helpers = fresh_notebook.descendants()
    assert names(helpers)
    fresh_notebook.client.shutdown()
    assert wait_until(lambda: not names(helpers), 5), names(helpers)


def test_a_killed_helper_is_replaced_and_said(fresh_notebook: Notebook) -> None:
    fresh_notebook.check("from notebook_accel import *\nnotebook_launcher(lambda: 0, num_processes=2)")
    zygote = next(p for p in fresh_notebook.descendants() if p.name() == "nbacc-zygote")
    zygote.kill()
    wait_until(lambda: not names([zygote]), 5)
    text = fresh_notebook.check("print(list(notebook_launcher(lambda: 1, num_processes=2)))")
    assert "the helper process had ended" in text
    assert literal(text) == [1, 1]


def test_a_killed_supervisor_takes_its_ranks_along_and_is_said(notebook: Notebook) -> None:
    notebook.check(SLEEPERS)
    ranks: list[psutil.Process] = []

    def kill_supervisor(text: str) -> None:
        if text.count("ready") == 2 and not ranks:
            ranks.extend(p for p in notebook.descendants() if "rank" in p.name())
            next(p for p in notebook.descendants() if "supervise" in p.name()).kill()

    reply = notebook.run("notebook_launcher(sleepers, ('native',), 2)", kill_supervisor)
    assert reply.error_name == "LaunchError"
    assert "supervisor" in reply.error_text
    assert len(ranks) == 2
    assert wait_until(lambda: not names(ranks), 3)


def test_a_teardown_that_hangs_does_not_cost_the_value(notebook: Notebook) -> None:
    text = notebook.check(
        "def stuck():\n"
        "    import threading\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    return 'kept'\n"
        "print(list(notebook_launcher(stuck, num_processes=2)))"
    )
    assert literal(text) == ["kept", "kept"]
    assert "rank 0" in text, "that it had to be ended is said"


def test_exit_handlers_of_the_function_run(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n"
        "    import atexit\n"
        "    atexit.register(print, 'goodbye')\n"
        "r = notebook_launcher(train, num_processes=2)"
    )
    assert text.count("goodbye") == 2


def test_a_temporary_folder_that_the_function_keeps_is_removed_at_its_end(notebook: Notebook) -> None:
    text = notebook.check(
        "def keep():\n"
        "    import builtins, tempfile\n"
        "    builtins.kept = tempfile.TemporaryDirectory()\n"
        "    return builtins.kept.name\n"
        "print(list(notebook_launcher(keep, num_processes=2)))"
    )
    kept = literal(text)
    assert len(set(kept)) == 2  # type: ignore[call-overload]
    assert [os.path.exists(folder) for folder in kept] == [False, False]  # type: ignore[attr-defined]


def test_what_a_rank_leaves_running_is_ended(notebook: Notebook) -> None:
    text = notebook.check(
        "def spawn():\n"
        "    import subprocess\n"
        "    return subprocess.Popen(['sleep', '600']).pid\n"
        "print(list(notebook_launcher(spawn, num_processes=2)))"
    )
    left = literal(text)
    assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in left), 5)  # type: ignore[attr-defined]


def test_when_the_helper_starts(fresh_notebook: Notebook) -> None:
    fresh_notebook.check("import notebook_accel; notebook_accel.RunConfig; notebook_accel.__version__")
    assert names(fresh_notebook.descendants()) == [], "an import alone starts nothing"
    fresh_notebook.check("%load_ext notebook_accel")
    (helper,) = fresh_notebook.descendants()
    fresh_notebook.check("from notebook_accel import notebook_launcher, warm\nwarm()")
    assert fresh_notebook.descendants() == [helper], "it is there already"
    assert literal(fresh_notebook.check("print(notebook_launcher(lambda: __import__('os').getppid()).value)"))
    assert helper in fresh_notebook.descendants()


@pytest.mark.slow
def test_a_changed_load_time_variable_replaces_the_helper(fresh_notebook: Notebook) -> None:
    fresh_notebook.check("from notebook_accel import *\nnotebook_launcher(lambda: 0, num_processes=2)")
    text = fresh_notebook.check(
        "import os; os.environ['KMP_BLOCKTIME'] = '1'\n"
        "print(notebook_launcher(lambda: os.environ['KMP_BLOCKTIME'], num_processes=2).value)"
    )
    assert "KMP_BLOCKTIME changed" in text
    assert literal(text) == 1


@pytest.mark.slow
def test_preload(fresh_notebook: Notebook, tmp_path: object) -> None:
    folder = os.path.join(str(tmp_path), "modules")
    os.makedirs(folder)
    for name, text in (
        ("slow_to_import", "import os\nPID = os.getpid()\n"),
        ("starts_a_thread", "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"),
    ):
        with open(os.path.join(folder, f"{name}.py"), "w") as file:
            file.write(text)
    fresh_notebook.check(f"import sys; sys.path.append({folder!r})\nfrom notebook_accel import *")
    text = fresh_notebook.check(
        "def look():\n"
        "    import os, slow_to_import, starts_a_thread\n"
        "    return slow_to_import.PID != os.getpid()\n"
        "print(list(notebook_launcher(look, num_processes=2, preload=['slow_to_import', 'starts_a_thread'])))"
    )
    assert literal(text) == [True, True]
    assert "starts_a_thread is not preloaded: importing it starts a thread" in text
    reply = fresh_notebook.run("notebook_launcher(look, num_processes=2, preload='there_is_no_such_module')")
    assert reply.error_name == "ConfigError"
    assert "there_is_no_such_module" in reply.error_text
    again = fresh_notebook.check("print(list(notebook_launcher(look, num_processes=2)))")
    assert literal(again) == [True, True]


def test_the_accelerator_in_a_kernel_says_where_it_belongs(notebook: Notebook) -> None:
    reply = notebook.run("Accelerator()")
    assert reply.error_name == "NotInWorkerError"
    assert "notebook_launcher(train)" in reply.error_text


def test_a_script_without_a_kernel(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "script.py")
    with open(path, "w") as file:
        file.write(
            "from notebook_accel import Accelerator, notebook_launcher\n"
            "def train():\n"
            "    return Accelerator().num_processes\n"
            "print(list(notebook_launcher(train, num_processes=2)), Accelerator().num_processes)\n"
        )
    import sys

    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.splitlines()[-1] == "[2, 2] 1"
    assert done.stderr == ""


def test_an_ended_kernel_in_mid_launch_leaves_nothing(fresh_notebook: Notebook) -> None:
    fresh_notebook.check("from notebook_accel import *")
    fresh_notebook.client.execute("notebook_launcher(lambda: 0, num_processes=2)")  # cold: the helper still imports
    wait_until(lambda: bool(names(fresh_notebook.descendants())), 10)
    ours = fresh_notebook.descendants()
    os.kill(fresh_notebook.pid, signal.SIGKILL)
    assert wait_until(lambda: not names(ours), 10), names(ours)
