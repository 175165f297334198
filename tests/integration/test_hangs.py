"""Hangs are explained, and stacks can be had at any time."""

from __future__ import annotations

import pytest

from tests.integration.kernels import Notebook

IMPORTS = "import time, os, torch, torch.distributed as dist\nfrom notebook_accel import *\n"


def launched(notebook: Notebook, cell: str, hang: str = "hang_timeout_seconds=1") -> str:
    """Define and launch ``train`` in a cell, wait for the report, end the run, and give what it said."""
    notebook.check(cell)
    said = notebook.check(
        f"run = notebook_launcher(train, num_processes=2, block=False, {hang})\n"
        "end = time.monotonic() + 60\n"
        "while (run.hang is None or 'still starting' in run.hang) and not run.wait(0.05) and time.monotonic() < end:\n"
        "    pass\n"
        "seen = None if time.monotonic() < end else (run.hang, run.stacks(), vars(run._watch))\n"
        "run.stop()\n"
        "assert seen is None, seen\n"
        "print(''.join(run.output()))\n"
        "print('REPORT'); print(run.hang)"
    )
    shown, _, report = said.partition("REPORT\n")
    for line in report.splitlines():
        assert f"notebook_accel: {line}\n" in shown
    return report.strip()


def number_of(notebook: Notebook) -> int:
    """The number that the next cell will have."""
    return int(notebook.check("print(len(In))"))


def test_one_rank_waits_and_the_other_is_elsewhere(notebook: Notebook) -> None:
    report = launched(
        notebook,
        IMPORTS + "def train():\n"
        "    dist.init_process_group('gloo')\n"
        "    if dist.get_rank() == 1:\n"
        "        time.sleep(600)  # asleep\n"
        "    dist.all_reduce(torch.ones(3))  # together\n",
    )
    title, first, second = report.splitlines()
    assert title.startswith("train hangs: nothing has changed for 1.")
    assert first.startswith("  rank 0 waits in all_reduce, called in train (")
    assert ", line 7): dist.all_reduce(torch.ones(3))  # together, since " in first
    assert second.startswith("  rank 1 is elsewhere: in train (")
    assert ", line 6): time.sleep(600)  # asleep, since " in second


def test_ranks_in_different_collectives(notebook: Notebook) -> None:
    report = launched(
        notebook,
        IMPORTS + "def train():\n"
        "    dist.init_process_group('gloo')\n"
        "    if dist.get_rank() == 1:\n"
        "        dist.barrier()\n"
        "    dist.broadcast(torch.ones(3), src=1)\n",
    )
    _, first, second, third = report.splitlines()
    assert first.startswith("  rank 0 waits in broadcast, called in train (")
    assert second.startswith("  rank 1 waits in barrier, called in train (")
    assert third == "  every rank must call the same collectives in the same order"


def test_backward_after_the_other_rank_has_returned(notebook: Notebook) -> None:
    report = launched(
        notebook,
        IMPORTS + "def train():\n"
        "    dist.init_process_group('gloo')\n"
        "    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))\n"
        "    for step in range(3 - dist.get_rank()):\n"
        "        loss = model(torch.ones(2, 4)).sum()\n"
        "        loss.backward()  # not everybody\n"
        "    import threading; threading.Thread(target=time.sleep, args=(4,)).start()  # keeps its group\n",
    )
    _, first, second = report.splitlines()
    assert first.startswith("  rank 0 waits in backward, called in train (")
    assert "loss.backward()  # not everybody" in first
    assert second == "  rank 1 has returned: the others wait for it"


def test_a_group_that_does_not_form(notebook: Notebook) -> None:
    report = launched(
        notebook,
        IMPORTS + "def train():\n"
        "    if os.environ['RANK'] == '0':\n"
        "        time.sleep(600)\n"
        "    dist.init_process_group('gloo')\n",
    )
    assert "  rank 1 waits for the other ranks to form a group, called in train (" in report
    assert "  rank 0 is elsewhere: in train (" in report


def test_a_data_loader_whose_worker_sleeps(notebook: Notebook) -> None:
    report = launched(
        notebook,
        IMPORTS + "class Slow(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, i): time.sleep(600)\n"
        "def train():\n"
        "    for batch in torch.utils.data.DataLoader(Slow(), num_workers=1):\n"
        "        pass\n",
    )
    assert "  ranks 0 and 1 wait for a DataLoader worker, called in train (" in report


def test_work_is_no_hang(notebook: Notebook) -> None:
    text = notebook.check(
        IMPORTS + "def train():\n"
        "    x = torch.randn(400, 400)\n"
        "    end = time.monotonic() + 3.5\n"
        "    while time.monotonic() < end: x = (x @ x) / 400\n"
        "    return 'done'\n"
        "run = notebook_launcher(train, num_processes=2, block=False, hang_timeout_seconds=1.5)\n"
        "print(list(run.result()), run.hang)"
    )
    assert "['done', 'done'] None" in text
    assert "hangs" not in text


def test_collectives_with_long_waits_between_are_no_hang(notebook: Notebook) -> None:
    text = notebook.check(
        IMPORTS + "def train():\n"
        "    dist.init_process_group('gloo')\n"
        "    for _ in range(12):\n"
        "        if dist.get_rank() == 1: time.sleep(0.25)\n"
        "        dist.all_reduce(torch.ones(1))\n"
        "    return 'done'\n"
        "run = notebook_launcher(train, num_processes=2, block=False, hang_timeout_seconds=2)\n"
        "print(list(run.result()), run.hang)"
    )
    assert "['done', 'done'] None" in text


def test_a_hang_is_said_again_when_the_ranks_have_moved(notebook: Notebook) -> None:
    text = notebook.check(
        IMPORTS + "def train():\n"
        "    time.sleep(2.5)\n"
        "    time.sleep(2.5)\n"
        "run = notebook_launcher(train, num_processes=2, block=False, hang_timeout_seconds=0.5)\n"
        "print(''.join(run.output()))"
    )
    assert text.count("train hangs") == 2


def test_a_hang_can_end_the_run(notebook: Notebook) -> None:
    reply = notebook.run(
        IMPORTS + "def train():\n"
        "    print('said before', flush=True)\n"
        "    dist.init_process_group('gloo')\n"
        "    if dist.get_rank() == 0: dist.barrier()\n"
        "    time.sleep(600)\n"
        "notebook_launcher(train, num_processes=2, hang_timeout_seconds=1, hang_action='stop')"
    )
    assert reply.error_name == "RunHung"
    assert "rank 0: waits in barrier, called in train (" in reply.error_text
    assert "rank 1: is elsewhere: in train (" in reply.error_text
    assert "notebook_accel:   it is stopped now" in reply.text
    text = notebook.check("print(last_run().state, last_run()._error.result.logs(1))")
    assert text == "hung said before\n\n"


@pytest.mark.parametrize("off", ["None", "0"])
def test_the_watch_can_be_off(notebook: Notebook, off: str) -> None:
    text = notebook.check(
        "from notebook_accel import *\n"
        "def train(): import time; time.sleep(0.5)\n"
        f"run = notebook_launcher(train, num_processes=1, block=False, hang_timeout_seconds={off})\n"
        "print(run.wait(), run.hang, run._watch.seconds_to_next_look())"
    )
    assert text.endswith("True None None\n")


STACKS_OF = """
run = notebook_launcher(train, num_processes=2, block=False)
ready = ""
for part in run.output():
    ready += part
    if ready.count("ready") == 2: break
"""


def asked(notebook: Notebook, cell: str, then: str) -> str:
    """Launch ``train``, wait until both ranks are ready, ask, and end the run."""
    notebook.check(IMPORTS + cell)
    return notebook.check(f"{STACKS_OF}\n{then}\nrun.kill(); run.wait()\nprint(run.stacks())")


def test_stacks_of_native_code_that_holds_the_interpreter(notebook: Notebook) -> None:
    number = number_of(notebook)
    text = asked(
        notebook,
        # Unlike a sleep, a lock that is never free does not return when the process is sent a signal.
        "import ctypes\n"
        "def train():\n"
        "    lock, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)\n"
        "    library.pthread_mutex_lock(lock)\n"
        "    print('ready', flush=True)\n"
        "    library.pthread_mutex_lock(lock)  # native\n",
        "while str(stacks := run.stacks()).count('# native') < 2 and run.state == 'running': pass\n"
        "for rank, stack in stacks.items(): print(rank); print(stack)",
    )
    whole = f'Main thread (most recent call last):\n  File "Cell In[{number}]", line 8, in train\n'
    source = "    library.pthread_mutex_lock(lock)  # native\n"
    assert text.count(whole + source) == 2, "nothing of the launcher before it"
    assert text.endswith("{}\n"), "there are none after the end"


def test_stacks_of_all_threads_as_often_as_one_asks(notebook: Notebook) -> None:
    text = asked(
        notebook,
        "import threading\n"
        "def beside(): time.sleep(600)\n"
        "def train():\n"
        "    threading.Thread(target=beside, daemon=True).start()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    answers = [f.result() for f in [pool.submit(run.stacks) for _ in range(24)]]\n"
        "good = [list(a) == [0, 1] and all(s.startswith('Main thread') and ', in train\\n' in s\n"
        "        and s.count('most recent') == 2 and ', in beside\\n' in s for s in a.values()) for a in answers]\n"
        "print(good.count(True), len(good))",
    )
    assert "24 24" in text


def test_a_stopped_rank_costs_no_more_than_the_patience(notebook: Notebook) -> None:
    text = asked(
        notebook,
        "def train():\n    print('ready', flush=True)\n    time.sleep(600)\n",
        "import psutil\n"
        "[rank] = [p for p in psutil.Process().children(recursive=True) if p.name() == 'nbacc-rank1']\n"
        "rank.suspend()\n"
        "before = time.monotonic(); silent = [run.stacks() for _ in range(3)]; took = time.monotonic() - before\n"
        "rank.resume()\n"
        "again = run.stacks()\n"
        "print([', in train' in s[0] for s in silent], {s[1] for s in silent}, took < 3)\n"
        "print(again[1].count('most recent'), ', in train' in again[1])",
    )
    silent = "it did not answer: it is still starting, or its process has been stopped"
    assert f"[True, True, True] {{'{silent}'}} True\n1 True\n" in text


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_stacks_with_every_start_method(notebook: Notebook, method: str) -> None:
    notebook.check(IMPORTS + "def train():\n    print('ready', flush=True)\n    time.sleep(600)  # here\n")
    text = notebook.check(
        STACKS_OF.replace("block=False", f"block=False, start_method={method!r}")
        + "while str(stacks := run.stacks()).count('# here') < 2 and run.state == 'running': pass\n"
        "for stack in stacks.values(): print(stack.count('File'), stack)\nrun.kill(); run.wait()"
    )
    assert text.count("1 Main thread (most recent call last):\n") == 2
    assert text.count("    time.sleep(600)  # here\n") == 2
