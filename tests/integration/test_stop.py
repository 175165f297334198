"""An interrupted cell ends soon whatever its ranks do, says where they were, and leaves nothing."""

from __future__ import annotations

import os
import tempfile

import pytest

from tests.integration.kernels import Notebook, Reply, names
from tests.integration.test_launch import literal
from tests.patience import stopwatch, wait_until

SOON_SECONDS = 3.0  # about 0.1 s where Python runs, 0.6 s where a rank is woken, 0.9 s where it is ended
GONE_SECONDS = 6.0

STUCK = """
from notebook_accel import *

def native_wait(library):
    # A lock that is taken twice: no signal ends the wait.
    import ctypes
    lock = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)

class Waiting:
    def __del__(self):
        import time
        time.sleep(600)  # what is raised here goes no further

def stuck(kind):
    import ctypes, os, time, torch, torch.distributed as dist
    from torch.utils.data import DataLoader
    rank = int(os.environ["RANK"])
    if kind == "deadlock":
        dist.init_process_group("gloo")
    loader = iter(DataLoader(range(10**9), num_workers=2)) if kind == "workers" else ()
    matrix = torch.ones(9000, 9000) if kind == "matrix" else None
    print("ready", flush=True)
    while kind == "compute":
        rank += 1
    if kind == "finalizer":
        Waiting()
    if kind in {"finalizer", "sleep"}:
        time.sleep(600)
    if kind == "deadlock":
        dist.recv(torch.zeros(1), src=1 - rank)
    if kind == "rendezvous" and rank == 0:
        dist.init_process_group("gloo")
    if kind == "rendezvous":
        time.sleep(600)
    for _ in loader:
        pass
    while kind == "matrix":
        matrix @ matrix
    if kind == "native":
        native_wait(ctypes.CDLL(None))
    if kind == "interpreter held":
        native_wait(ctypes.PyDLL(None))
    while kind == "deaf":
        try:
            time.sleep(600)
        except BaseException:
            pass
"""


def stopped(notebook: Notebook, code: str, said: str = "ready", times: int = 2) -> tuple[Reply, float]:
    """Press stop when every rank is ready; give what the cell did and how long it took from then on."""
    pressed: list[float] = []
    with stopwatch() as watch:

        def press(text: str) -> None:
            if text.count(said) >= times and not pressed:
                pressed.append(watch.seconds)
                notebook.interrupt()

        reply = notebook.run(code, press)
        return reply, watch.seconds - pressed[0]


def only_helper_is_left(notebook: Notebook, seconds: float = GONE_SECONDS) -> bool:
    return wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], seconds)


def works_at_once(notebook: Notebook) -> bool:
    return literal(notebook.check("print(list(notebook_launcher(lambda: 1, num_processes=2)))")) == [1, 1]


@pytest.mark.parametrize(
    "kind",
    ["compute", "sleep", "finalizer", "deadlock", "rendezvous", "workers", "matrix", "native", "interpreter held"],
)
def test_a_stopped_cell_ends_soon_and_says_where_each_rank_was(notebook: Notebook, kind: str) -> None:
    notebook.check(STUCK)
    reply, seconds = stopped(notebook, f"notebook_launcher(stuck, ({kind!r},), 2)")
    assert reply.error_name == "KeyboardInterrupt"
    first, *places = reply.error_text.splitlines()
    assert first == "KeyboardInterrupt: stuck was interrupted before it had returned on every rank"
    assert [place[: len("  rank 0: in ")] for place in places] == ["  rank 0: in ", "  rank 1: in "]
    assert seconds < SOON_SECONDS
    assert only_helper_is_left(notebook, GONE_SECONDS - seconds), notebook.descendants()
    assert works_at_once(notebook)


def test_a_stopped_loader_leaves_no_file(notebook: Notebook) -> None:
    notebook.check(STUCK)
    with tempfile.TemporaryDirectory() as folder:
        notebook.check(f"import os\nos.environ['TMPDIR'] = {folder!r}")
        reply, _ = stopped(notebook, "notebook_launcher(stuck, ('workers',), 2)")
        notebook.check("del os.environ['TMPDIR']")
        assert reply.error_name == "KeyboardInterrupt"
        assert only_helper_is_left(notebook)
        assert [name for name in os.listdir(folder) if not name.startswith("torch")] == []


def test_a_first_launch_is_stopped_while_its_helper_still_imports(fresh_notebook: Notebook) -> None:
    code = "from notebook_accel import *\nnotebook_launcher(lambda: 0, num_processes=2)"
    reply, seconds = stopped(fresh_notebook, code, "CPU processes", times=1)
    assert reply.error_text == "KeyboardInterrupt: <lambda> was interrupted before its ranks were started"
    assert seconds < SOON_SECONDS
    assert works_at_once(fresh_notebook)
    assert only_helper_is_left(fresh_notebook)


def test_ranks_that_have_not_come_to_the_function_are_ended_at_once(notebook: Notebook) -> None:
    text = notebook.check(
        "import psutil, time\n"
        "def others(): return psutil.Process().children(recursive=True)\n"
        "before = len(others())\n"
        "run = notebook_launcher(lambda: 0, num_processes=2, start_method='spawn', block=False)\n"
        "while len(others()) < before + 3: time.sleep(0.01)  # the supervisor and both ranks, which import torch now\n"
        "run.stop()\n"
        "try: run.result()\n"
        "except RunInterrupted as error: print((run.state, error.places))"
    )
    assert literal(text) == ("interrupted", {0: "was still starting", 1: "was still starting"})
    assert only_helper_is_left(notebook)


def test_the_places_are_lines_of_the_cell(notebook: Notebook) -> None:
    notebook.check(STUCK)
    reply, _ = stopped(notebook, "notebook_launcher(stuck, ('deadlock',), 2)")
    assert reply.error_text.count(": dist.recv(torch.zeros(1), src=1 - rank)") == 2
    reply, _ = stopped(notebook, "notebook_launcher(stuck, ('interpreter held',), 2)")
    assert reply.error_text.count("in native_wait (") == 2
    assert reply.error_text.count(": library.pthread_mutex_lock(lock)") == 2


def test_a_woken_rank_may_clean_up(notebook: Notebook) -> None:
    reply, seconds = stopped(
        notebook,
        "def careful():\n"
        "    import torch, torch.distributed as dist\n"
        "    dist.init_process_group('gloo')\n"
        "    print('ready', flush=True)\n"
        "    try:\n"
        "        dist.recv(torch.zeros(1), src=1 - dist.get_rank())\n"
        "    except KeyboardInterrupt:\n"
        "        print('cleaned up')\n"
        "        raise\n"
        "notebook_launcher(careful, num_processes=2)",
    )
    assert reply.error_name == "KeyboardInterrupt"
    assert reply.text.count("cleaned up") == 2
    assert seconds < SOON_SECONDS


def test_a_rank_that_swallows_every_exception_is_killed_after_its_grace(notebook: Notebook) -> None:
    notebook.check(STUCK)
    reply, seconds = stopped(notebook, "notebook_launcher(stuck, ('deaf',), 2)")
    assert reply.error_name == "KeyboardInterrupt"
    assert seconds > 4.5
    assert only_helper_is_left(notebook, GONE_SECONDS - seconds)
    assert works_at_once(notebook)


def test_a_second_interrupt_skips_the_grace(notebook: Notebook) -> None:
    notebook.check(
        "def stubborn():\n"
        "    import time\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        try: time.sleep(600)\n"
        "        except KeyboardInterrupt: print('not yet', flush=True)"
    )
    pressed: list[float] = []
    with stopwatch() as watch:

        def press(text: str) -> None:
            # Each rank says that it has heard the first; without the second they would live on for their five seconds.
            heard = text.count("not yet")
            if text.count("ready") == 2 and heard in {0, 2} and heard == 2 * len(pressed):
                pressed.append(watch.seconds)
                notebook.interrupt()

        reply = notebook.run("notebook_launcher(stubborn, num_processes=2)", press)
        seconds = watch.seconds - pressed[1]
    assert reply.error_name == "KeyboardInterrupt"
    assert seconds < SOON_SECONDS
    assert only_helper_is_left(notebook, SOON_SECONDS)
    assert works_at_once(notebook)


def test_a_rank_that_had_returned_says_so_and_its_value_is_kept(notebook: Notebook) -> None:
    notebook.check(STUCK)
    reply, seconds = stopped(
        notebook,
        "def uneven():\n"
        "    import atexit, os, time\n"
        "    if os.environ['RANK'] == '1':\n"
        "        atexit.register(print, 'ready', flush=True)  # called when the value is on its way\n"
        "        return 'early'\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)  # here\n"
        "notebook_launcher(uneven, num_processes=2)",
    )
    assert reply.error_name == "KeyboardInterrupt"
    lines = reply.error_text.splitlines()
    assert lines[1].startswith("  rank 0: in uneven (")
    assert lines[1].endswith(": time.sleep(600)  # here")
    assert lines[2:] == ["  rank 1: had returned"]
    kept = "import sys\nprint((sys.last_value.result[1], sorted(sys.last_value.places)))"
    assert literal(notebook.check(kept)) == ("early", [0, 1])
    assert seconds < SOON_SECONDS


def test_the_notebooks_own_connections_survive_a_rank_that_is_a_copy_of_the_kernel(notebook: Notebook) -> None:
    notebook.check(STUCK)
    reply, seconds = stopped(notebook, "notebook_launcher(stuck, ('deadlock',), 2, start_method='fork')")
    assert reply.error_name == "KeyboardInterrupt"
    assert seconds < SOON_SECONDS
    assert literal(notebook.check("print(1)")) == 1
    assert works_at_once(notebook)


def test_stopping_from_code_takes_the_same_steps(notebook: Notebook) -> None:
    notebook.check(STUCK)
    for kind, most_seconds in (("deadlock", SOON_SECONDS), ("interpreter held", SOON_SECONDS), ("deaf", 6.0 + 1.5)):
        text = notebook.check(
            "import time\n"
            f"run, seen = notebook_launcher(stuck, ({kind!r},), 2, block=False), ''\n"
            "for part in run.output():\n"
            "    seen += part\n"
            "    if seen.count('ready') == 2: break\n"
            "began = time.monotonic(); run.stop(); took = time.monotonic() - began\n"
            "try: run.result()\n"
            "except RunInterrupted as error: print((run.state, took, error.places))"
        )
        state, took, places = literal(text)  # type: ignore[misc]
        assert state == "interrupted"
        assert took < most_seconds
        assert sorted(places) == [0, 1]
        assert only_helper_is_left(notebook, 1.0)


@pytest.mark.slow
def test_the_next_launch_works_at_once_every_time(notebook: Notebook) -> None:
    notebook.check(STUCK)
    for kind in ["deadlock", "compute", "interpreter held", "workers", "sleep"] * 2:
        reply, seconds = stopped(notebook, f"notebook_launcher(stuck, ({kind!r},), 2)")
        assert reply.error_name == "KeyboardInterrupt"
        assert seconds < SOON_SECONDS
        assert works_at_once(notebook), kind
    assert only_helper_is_left(notebook)


def test_a_run_that_is_asked_to_stop_ends_by_itself_on_all_ranks_at_the_same_step(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n"
        "    accelerator, step = Accelerator(), 0\n"
        "    while not accelerator.should_stop:\n"
        "        step += 1\n"
        "        if step == 20:\n"
        "            print('ready', flush=True)\n"
        "    accelerator.wait_for_everyone()\n"
        "    return step, accelerator.should_stop\n"
        "run, seen = notebook_launcher(train, num_processes=2, block=False), ''\n"
        "for part in run.output():\n"
        "    seen += part\n"
        "    if seen.count('ready') == 2: run.request_stop()\n"
        "print((list(run.result()), run.state))"
    )
    (first, second), state = literal(text)  # type: ignore[misc]
    assert first == second
    assert first[0] >= 20
    assert first[1] is True
    assert state == "succeeded"


def test_a_request_to_stop_interrupts_nobody(notebook: Notebook) -> None:
    text = notebook.check(
        "def deaf():\n"
        "    print('ready', flush=True)\n"
        "    return 'to its end'\n"
        "run = notebook_launcher(deaf, num_processes=2, block=False)\n"
        "run.request_stop()\n"
        "print((list(run.result()), run.state))\n"
        "run.request_stop()"
    )
    assert literal(text) == (["to its end", "to its end"], "succeeded")
