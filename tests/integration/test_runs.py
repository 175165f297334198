"""Runs in the background, the other start methods, maps and restarts, as the cells of a notebook use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.kernels import Notebook, names
from tests.integration.test_launch import literal
from tests.patience import wait_until

# Ranks wait at a gate, a lock on a file, until a cell or a test opens it. Nothing waits for a time.
GATE = """
import fcntl
from notebook_accel import *
gate = open({path!r}, "w")
def close_gate():
    fcntl.flock(gate, fcntl.LOCK_EX)
def open_gate():
    fcntl.flock(gate, fcntl.LOCK_UN)
def pass_gate(value=None):
    import fcntl, os
    print("ready", flush=True)
    with open({path!r}) as mine:
        fcntl.flock(mine, fcntl.LOCK_SH)
    print("passed", flush=True)
    return value, int(os.environ["RANK"])
def until_ready(run):
    seen = ""
    for text in run.output():
        seen += text
        if seen.count("ready") == run.plan.world_size:
            return
    raise RuntimeError(seen)
def interrupt_what_waits():
    # Once the cell is in the launcher, and waits there, or in the event loop.
    import signal, sys, threading, time
    main = threading.main_thread().ident
    def waits():
        return sys._current_frames()[main].f_code.co_name in ("wait_for", "select")
    def press():
        while not waits():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)
    threading.Thread(target=press).start()
close_gate()
"""


@pytest.fixture
def gated(notebook: Notebook, tmp_path: Path) -> Iterator[Notebook]:
    """The kernel with a closed gate; whatever the test leaves running ends with it."""
    notebook.check(GATE.format(path=str(tmp_path / "gate")))
    yield notebook
    notebook.check("open_gate(); gate.close()")
    assert only_helper_is_left(notebook)


def only_helper_is_left(notebook: Notebook) -> bool:
    return wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 8)


def press_when(notebook: Notebook, arrived: Callable[[str], bool]) -> Callable[[str], None]:
    pressed: list[bool] = []

    def press(text: str) -> None:
        if arrived(text) and not pressed:
            pressed.append(True)
            notebook.interrupt()

    return press


# ---- in the background


def test_other_cells_run_while_a_run_goes_on(gated: Notebook) -> None:
    gated.check("run = notebook_launcher(pass_gate, ('x',), 2, block=False)\nuntil_ready(run)")
    assert literal(gated.check("print((run.state, last_run() is run, run.wait(0), run.logs(1)))")) == (
        "running",
        True,
        False,
        "ready\n",
    )
    assert gated.run("run").shown[0].startswith("Run(pass_gate: 2 CPU processes, gloo, running for ")
    text = gated.check("print(list(notebook_launcher(lambda: 5, num_processes=2)))  # a run beside it")
    assert literal(text) == [5, 5]
    gated.check("open_gate()")
    assert literal(gated.check("print((list(await run), run.state))")) == ([("x", 0), ("x", 1)], "succeeded")
    assert literal(gated.check("print((list(await run), run.logs(0)))")) == ([("x", 0), ("x", 1)], "ready\npassed\n")


def test_awaiting_two_runs_leaves_the_event_loop_to_others(gated: Notebook) -> None:
    text = gated.check(
        "import asyncio\n"
        "runs = [notebook_launcher(pass_gate, (name,), 2, block=False) for name in 'ab']\n"
        "for run in runs: until_ready(run)\n"
        "async def open_it(): open_gate()  # gets its turn only while the cell waits\n"
        "print([list(r) for r in (await asyncio.gather(*runs, open_it()))[:2]])"
    )
    assert literal(text) == [[("a", 0), ("a", 1)], [("b", 0), ("b", 1)]]


def test_an_awaited_run_that_fails_raises_in_the_cell(notebook: Notebook) -> None:
    reply = notebook.run(
        "def broken(): raise LookupError('in the background')  # at fault\n"
        "run = notebook_launcher(broken, num_processes=2, block=False)\n"
        "await run"
    )
    assert reply.error_name == "RankFailed"
    assert "LookupError: in the background" in reply.error_text
    assert "# at fault" in reply.error_text
    assert literal(notebook.check("print(repr(run.state))")) == "failed"


def test_a_background_run_is_stopped(gated: Notebook) -> None:
    gated.check("run = notebook_launcher(pass_gate, num_processes=2, block=False)\nuntil_ready(run)")
    assert literal(gated.check("run.stop(); print(repr(run.state))")) == "interrupted"
    assert only_helper_is_left(gated)
    reply = gated.run("run.result()")
    assert reply.error_name == "RunInterrupted"
    assert "pass_gate was interrupted" in reply.error_text
    assert literal(gated.check("run.stop(); print(list(notebook_launcher(lambda: 1, num_processes=2)))")) == [1, 1]


@pytest.mark.parametrize("waiting", ["run.result()", "await run", "run.wait()", "run.show()"])
def test_interrupting_a_cell_that_waits_leaves_the_run_alone(gated: Notebook, waiting: str) -> None:
    gated.check("run = notebook_launcher(pass_gate, ('x',), 2, block=False)\nuntil_ready(run)")
    reply = gated.run(f"interrupt_what_waits()\n{waiting}")
    if waiting == "run.show()":
        assert reply.error_name is None, reply.error_text
        assert "pass_gate goes on; .stop() ends it, .show() shows more" in reply.text
    else:
        assert reply.error_name in {"KeyboardInterrupt", "CancelledError"}
    assert literal(gated.check("print((run.state, run.logs(0)))")) == ("running", "ready\n")
    gated.check("open_gate()")
    assert literal(gated.check("print(list(await run))")) == [("x", 0), ("x", 1)]


def test_what_the_last_run_printed_is_kept_when_it_failed(notebook: Notebook) -> None:
    reply = notebook.run(
        "def broken():\n"
        "    import os\n"
        "    print('rank', os.environ['RANK']); raise ValueError\n"
        "notebook_launcher(broken, num_processes=2)"
    )
    assert reply.error_name == "RankFailed"
    text = notebook.check("run = last_run(); print((run.name, run.state, run.logs(0), run.logs(1)))")
    assert literal(text) == ("broken", "failed", "rank 0\n", "rank 1\n")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_killed_kernel_takes_its_background_run_along(fresh_notebook: Notebook, tmp_path: Path, method: str) -> None:
    fresh_notebook.check(GATE.format(path=str(tmp_path / "gate")))
    fresh_notebook.check(
        f"run = notebook_launcher(pass_gate, num_processes=2, block=False, start_method={method!r})\nuntil_ready(run)"
    )
    ours = [process for process in fresh_notebook.descendants() if "nbacc" in process.name()]
    assert len(ours) >= 3, ours
    fresh_notebook.kill()
    assert wait_until(lambda: not names(ours), 3), names(ours)


@pytest.mark.slow
def test_a_kernel_that_ends_well_takes_its_background_run_along(fresh_notebook: Notebook, tmp_path: Path) -> None:
    fresh_notebook.check(GATE.format(path=str(tmp_path / "gate")))
    fresh_notebook.check("run = notebook_launcher(pass_gate, num_processes=2, block=False)\nuntil_ready(run)")
    ours = [process for process in fresh_notebook.descendants() if "nbacc" in process.name()]
    fresh_notebook.client.shutdown()
    assert wait_until(lambda: not names(ours), 8), names(ours)


def test_a_device_that_a_run_holds_is_refused_and_said_by_whom(gated: Notebook) -> None:
    gated.check(
        "from notebook_accel.hardware.inventory import Inventory\n"
        "from notebook_accel.launch import start\n"
        "real_probe, start.probe = start.probe, lambda: Inventory.fake(gpus=2)\n"
        "run = notebook_launcher(pass_gate, block=False, devices=(0,))\n"
        "until_ready(run)"
    )
    try:
        reply = gated.run("notebook_launcher(pass_gate, devices=(0,))")
        assert reply.error_name == "ConfigError"
        assert "devices are held by runs that have not ended: GPU 0 by the run of pass_gate (started" in (
            reply.error_text
        )
        assert "devices=[1] is free" in reply.error_text
        reply = gated.run("notebook_launcher(pass_gate, num_processes=2)")
        assert reply.error_name == "ConfigError"
        assert "GPU 0 by the run of pass_gate" in reply.error_text
        text = gated.check(
            "import os\n"
            "look = lambda: os.environ['CUDA_VISIBLE_DEVICES']\n"
            "print(list(notebook_launcher(look, num_processes=1)))"
        )
        assert literal(text) == ["1"], "what is free is taken"
        assert literal(gated.check("print(notebook_launcher(lambda: 3, devices='cpu').value)")) == 3
        gated.check("open_gate()\nrun.result()")
        assert literal(gated.check("print(list(notebook_launcher(look, devices=(0,))))")) == ["0"]
    finally:
        gated.check("start.probe = real_probe")


# ---- fork


def test_a_forked_run_in_a_kernel(notebook: Notebook) -> None:
    text = notebook.check(
        "import threading\n"
        "guard = threading.Lock()  # does not travel, and does not need to\n"
        "class Own:\n"
        "    pass\n"
        "def train():\n"
        "    import os\n"
        "    print('python', os.environ['RANK'], flush=True)\n"
        "    os.write(1, b'descriptor\\n')\n"
        "    with guard: return Own()\n"
        "r = notebook_launcher(train, num_processes=2, start_method='fork')\n"
        "print((r.logs(0), r.logs(1), type(r[0]) is Own, type(r[1]) is Own))"
    )
    assert "forked from this process" in text
    assert "\n[rank 1] python 1\n" in text
    assert literal(text) == ("python 0\ndescriptor\n", "python 1\ndescriptor\n", True, True)
    assert only_helper_is_left(notebook)


def test_the_kernel_is_as_usable_after_forks_as_before(notebook: Notebook) -> None:
    for _ in range(3):
        notebook.check("r = notebook_launcher(lambda: print('x'), num_processes=2, start_method='fork')")
    assert notebook.run("from IPython.display import display\ndisplay('shown')").shown == ["'shown'"]
    assert notebook.run("1 + 1").shown == ["2"]
    assert "loop" in notebook.check("%timeit -n 10 -r 2 sum(range(10))")
    assert literal(notebook.check("import subprocess\nprint(subprocess.run(['true']).returncode)")) == 0
    reply = notebook.run("raise ValueError('of the cell')")
    assert reply.error_name == "ValueError"


def test_a_forked_run_is_interrupted_by_the_button(gated: Notebook) -> None:
    press = press_when(gated, lambda text: text.count("ready") == 2)
    reply = gated.run("notebook_launcher(pass_gate, num_processes=2, start_method='fork')", press)
    assert reply.error_name == "KeyboardInterrupt"
    assert only_helper_is_left(gated)
    press = press_when(gated, lambda text: "alone" in text)
    reply = gated.run("import time\nprint('alone', flush=True)\ntime.sleep(60)", press)
    assert reply.error_name == "KeyboardInterrupt", "the button still works for the kernel itself"
    text = gated.check("print(list(notebook_launcher(lambda: 1, num_processes=2, start_method='fork')))")
    assert literal(text) == [1, 1]


def test_a_huge_object_is_not_copied_by_a_fork(notebook: Notebook) -> None:
    text = notebook.check(
        "import numpy, psutil, torch\n"
        "huge = {'rows': [torch.ones(50_000_000)], 'guard': __import__('threading').Lock()}\n"
        "def read():\n"
        "    total = huge['rows'][0].sum(dtype=torch.float64).item()\n"
        "    return total, huge['rows'][0].data_ptr(), psutil.Process().memory_full_info().uss\n"
        "r = notebook_launcher(read, num_processes=2, start_method='fork')\n"
        "print((list(r), huge['rows'][0].data_ptr()))\n"
        "del huge"
    )
    ranks, address = literal(text)  # type: ignore[misc]
    for total, seen_at, own_bytes in ranks:
        assert (total, seen_at) == (50_000_000, address)
        assert own_bytes < 60_000_000, "of 200 MB that it has read"


def test_forks_of_a_kernel_whose_torch_has_computed_with_threads(notebook: Notebook) -> None:
    text = notebook.check(
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "a = torch.randn(800, 800); b = (a @ a).exp().sum()\n"
        "w = torch.nn.Linear(800, 800); w(a).sum().backward()\n"
        "def heavy():\n"
        "    x = torch.randn(800, 800)\n"
        "    torch.nn.Linear(800, 800)(x).sum().backward()\n"
        "    return (x @ x).exp().shape == (800, 800), torch.get_num_threads()\n"
        "print(list(notebook_launcher(heavy, num_processes=2, start_method='fork', timeout_seconds=60)))"
    )
    assert literal(text) == [(True, 1), (True, 1)]
    assert literal(notebook.check("print(((a @ a).shape[0], torch.get_num_threads()))")) == (800, 2)
    reply = notebook.run("notebook_launcher(heavy, num_processes=2, start_method='fork', threads_per_rank=2)")
    assert reply.error_name == "ConfigError"
    assert "leave one of the two out" in reply.error_text


# ---- spawn


def test_a_spawned_run_in_a_kernel(notebook: Notebook) -> None:
    text = notebook.check(
        "class Own:\n"
        "    def __init__(self, rank): self.rank = rank\n"
        "def helper(): return factor\n"
        "factor = 3\n"
        "def train():\n"
        "    import os, sys\n"
        "    print('rank', os.environ['RANK'])\n"
        "    return Own(int(os.environ['RANK']) * helper()), sys.modules['__main__'].Own is Own\n"
        "r = notebook_launcher(train, num_processes=2, start_method='spawn')\n"
        "print([(type(own) is Own, own.rank, same) for own, same in r])"
    )
    assert "in fresh interpreters" in text
    assert "\n[rank 1] rank 1\n" in text
    assert literal(text) == [(True, 0, True), (True, 3, True)]


@pytest.mark.slow
def test_a_spawned_run_is_interrupted_by_the_button(gated: Notebook) -> None:
    press = press_when(gated, lambda text: text.count("ready") == 2)
    reply = gated.run("notebook_launcher(pass_gate, num_processes=2, start_method='spawn')", press)
    assert reply.error_name == "KeyboardInterrupt"
    assert only_helper_is_left(gated)


# ---- maps and restarts


def test_an_item_that_fails_costs_the_others_nothing(notebook: Notebook) -> None:
    text = notebook.check(
        "def invert(x):\n"
        "    print('item', x)\n"
        "    return 1 / x\n"
        "r = launch_map(invert, [1, 0, 4])\n"
        "print((r.value_or('none'), list(r.failures), [r.logs(i) for i in range(3)], r[2]))"
    )
    assert literal(text) == ([1.0, "none", 0.25], [1], ["item 1\n", "item 0\n", "item 4\n"], 0.25)
    assert "[2] item 4\n" in text
    reply = notebook.run("r[1]")
    assert reply.error_name == "RankFailed"
    assert "ZeroDivisionError" in reply.error_text
    assert "2: 0" not in notebook.run("r").shown[0]
    assert "failed: ZeroDivisionError" in notebook.run("r").shown[0]


def test_an_interrupted_map_hands_over_what_it_has(gated: Notebook) -> None:
    gated.check(
        "from notebook_accel.hardware.inventory import Inventory\n"
        "from notebook_accel.launch import slots, start\n"
        "real_probe = start.probe\n"
        "start.probe = slots.probe = lambda: Inventory.fake(cpu_cores=1)  # one item at a time\n"
        "def work(x):\n"
        "    return x * 10 if x < 2 else pass_gate(x)"
    )
    try:
        reply = gated.run("launch_map(work, [0, 1, 2, 3])", press_when(gated, lambda text: "[2] ready" in text))
        assert reply.error_name == "KeyboardInterrupt"
        assert "2 of 4 items had returned: sys.last_value.result has them" in reply.text
        assert only_helper_is_left(gated)
        text = gated.check(
            "import sys\n"
            "found = sys.last_value.result\n"
            "print((found.value_or(), [type(error).__name__ for error in found.errors], found.logs(2)))"
        )
        assert literal(text) == ([0, 10, None, None], ["NoneType", "NoneType", "RunInterrupted", "NoneType"], "ready\n")
        reply = gated.run("found[3]")
        assert reply.error_name == "RunInterrupted"
        assert "item 3 was not started" in reply.error_text
    finally:
        gated.check("start.probe = slots.probe = real_probe")


def test_a_run_is_started_again_as_often_as_allowed(notebook: Notebook) -> None:
    notebook.check(
        "def flaky(good):\n"
        "    import os\n"
        "    attempt = int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "    print('attempt', attempt)\n"
        "    if attempt == 0 < good: raise ValueError(f'attempt {attempt}')\n"
        "    if attempt < good: raise ValueError(f'attempt {attempt}')\n"
        "    return attempt"
    )
    text = notebook.check("print(list(notebook_launcher(flaky, (2,), 2, max_restarts=2)))")
    assert literal(text) == [2, 2]
    for number in (1, 2):
        assert text.count(f"; restart {number} of 2\n") == 1
    assert text.index("restart 1 of 2") < text.index("attempt 1\n") < text.index("restart 2 of 2")
    reply = notebook.run("notebook_launcher(flaky, (2,), 2, max_restarts=1)")
    assert reply.error_name == "RankFailed"
    assert "ValueError: attempt 1" in reply.error_text
    assert only_helper_is_left(notebook)


def test_an_interrupted_run_is_not_started_again(gated: Notebook) -> None:
    press = press_when(gated, lambda text: text.count("ready") == 2)
    reply = gated.run("notebook_launcher(pass_gate, num_processes=2, max_restarts=3)", press)
    assert reply.error_name == "KeyboardInterrupt"
    assert "restart" not in reply.text
    assert only_helper_is_left(gated)


# ---- what travels


@pytest.mark.slow
def test_an_edited_module_beside_the_notebook_is_said_once_a_launch(fresh_notebook: Notebook, tmp_path: Path) -> None:
    module = tmp_path / "beside_the_notebook.py"
    module.write_text("def answer():\n    return 1\n")
    fresh_notebook.check("from notebook_accel import *\nimport beside_the_notebook\nask = beside_the_notebook.answer")
    launch = "print(list(notebook_launcher(lambda: ask(), num_processes=2{})))"
    first = fresh_notebook.check(launch.format(""))
    assert literal(first) == [1, 1]
    assert "edited" not in first
    module.write_text("def answer():\n    return 'edited since'\n")
    for _ in range(2):
        text = fresh_notebook.check(launch.format(""))
        assert literal(text) == ["edited since"] * 2
        assert text.count("beside_the_notebook.py was edited after this notebook imported it") == 1
    text = fresh_notebook.check(launch.format(", by_value=[beside_the_notebook]"))
    assert literal(text) == [1, 1], "as the notebook has it"
    assert "was edited" not in text
    text = fresh_notebook.check(launch.format(", start_method='fork'"))
    assert literal(text) == [1, 1], "a fork has what the notebook has"
    assert "was edited" not in text
    fresh_notebook.check("import importlib\nask = importlib.reload(beside_the_notebook).answer")
    text = fresh_notebook.check(launch.format(""))
    assert literal(text) == ["edited since"] * 2
    assert "was edited" not in text


def test_a_module_without_a_file_travels(notebook: Notebook) -> None:
    text = notebook.check(
        "import sys, types\n"
        "made = types.ModuleType('made_in_a_cell')\n"
        "exec('FACTOR = 2\\ndef double(x): return x * FACTOR', made.__dict__)\n"
        "sys.modules['made_in_a_cell'] = made\n"
        "double = made.double\n"
        "print(list(notebook_launcher(lambda: double(21), num_processes=2)))\n"
        "del sys.modules['made_in_a_cell']"
    )
    assert literal(text) == [42, 42]


def test_large_captures_are_said_with_what_to_do(notebook: Notebook) -> None:
    text = notebook.check(
        "import torch\n"
        "class Data:\n"
        "    def __init__(self): self.images = torch.zeros(30_000_000)\n"
        "data = Data()\n"
        "def train(): return data.images.shape[0]\n"
        "print(list(notebook_launcher(train, num_processes=2)))"
    )
    assert literal(text) == [30_000_000] * 2
    assert "notebook_accel: 120 MB travel to the ranks: train -> data.images: 120 MB\n" in text
    assert "notebook_accel: share(obj) copies it once for many launches" in text
    text = notebook.check(
        "with share(data) as shared:\n"
        "    r = notebook_launcher(lambda: shared.value.images.shape[0], num_processes=2)\n"
        "del data\n"
        "print(list(r))"
    )
    assert literal(text) == [30_000_000] * 2
    assert "travel to the ranks" not in text


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("dataset.lock = threading.Lock()", "train -> loader.dataset.lock (a thread lock)"),
        ("dataset.files = {'a': [open('/dev/null', 'w')]}", "train -> loader.dataset.files['a'][0] (the open file"),
        ("dataset.rows = (i for i in ())", "train -> loader.dataset.rows ("),
    ],
)
def test_what_cannot_travel_is_named_by_its_path(notebook: Notebook, setting: str, path: str) -> None:
    reply = notebook.run(
        "import threading\n"
        "class Bag: pass\n"
        "dataset, loader = Bag(), Bag()\n"
        "loader.dataset = dataset\n"
        f"{setting}\n"
        "def train(): return loader\n"
        "notebook_launcher(train, num_processes=2)"
    )
    assert reply.error_name == "PayloadError"
    assert path in reply.error_text
    assert only_helper_is_left(notebook), "nothing was started"
    notebook.check("del dataset, loader")


def test_a_run_that_has_had_its_time_says_the_cells_line(notebook: Notebook) -> None:
    reply = notebook.run(
        "def slow():\n"
        "    import time\n"
        "    time.sleep(600)  # this line\n"
        "notebook_launcher(slow, num_processes=2, timeout_seconds=2)"
    )
    assert reply.error_name == "RunTimedOut"
    said = reply.error_text.partition("RunTimedOut")[2]
    assert said.count("time.sleep(600)  # this line") == 2, reply.error_text
    assert "rank 1: in slow (" in reply.error_text
    assert only_helper_is_left(notebook)


def test_a_killed_kernel_takes_a_helper_along_that_is_still_importing(fresh_notebook: Notebook) -> None:
    fresh_notebook.check("from notebook_accel import notebook_launcher")
    (helper,) = fresh_notebook.descendants()
    fresh_notebook.kill()
    assert wait_until(lambda: not names([helper]), 3), "its imports take longer than this on most machines"
