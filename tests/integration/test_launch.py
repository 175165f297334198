"""What must hold when a cell is run, in real kernels."""

from __future__ import annotations

import ast
import socket
from pathlib import Path

import pytest

from tests.integration.kernels import Notebook, names
from tests.patience import wait_until

SUM_OF_RANKS = """
def train(scale):
    import torch
    import torch.distributed as dist
    if not dist.is_initialized():
        dist.init_process_group()
    total = torch.tensor([float(dist.get_rank() + 1)]) * scale
    dist.all_reduce(total)
    return dist.get_rank(), dist.get_world_size(), total.item()
"""


def literal(text: str) -> object:
    """The last line that a cell printed, as a value."""
    return ast.literal_eval(text.strip().splitlines()[-1])


def free_port() -> int:
    """A port that no outgoing connection is given by the system meanwhile."""
    for port in range(20_000, 21_000):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise AssertionError("no free port")


def take(port: int, taken: list[socket.socket]) -> bool:
    try:
        taken.append(socket.create_server(("127.0.0.1", port)))
    except OSError:
        return False
    return True


def test_what_was_chosen_is_said_in_one_line(notebook: Notebook) -> None:
    text = notebook.check("r = notebook_launcher(lambda: 1, num_processes=2, mixed_precision='bf16', devices='cpu')")
    assert text == "notebook_accel: 2 CPU processes, gloo, bf16\n"
    assert "2 CPU processes" in notebook.check("r = notebook_launcher(lambda: 1, devices='cpu')")
    assert literal(notebook.check("print(debug_launcher(lambda: 1).value)")) == 1


def test_an_edited_function_is_what_runs(notebook: Notebook) -> None:
    notebook.check("def f(): return 'old'")
    assert literal(notebook.check("print(repr(notebook_launcher(f, num_processes=2)[1]))")) == "old"
    notebook.check("def f(): return 'new'")
    assert literal(notebook.check("print(repr(notebook_launcher(f, num_processes=2)[1]))")) == "new"


def test_a_failed_run_shows_the_ranks_traceback_and_the_next_run_works(notebook: Notebook) -> None:
    notebook.check(
        "def broken(shape):\n"
        "    import os, torch.distributed as dist\n"
        "    dist.init_process_group()\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise ValueError(f'shape mismatch: {shape}')  # the line at fault\n"
        "    dist.barrier()\n"
        "    return 'unreachable'"
    )
    reply = notebook.run("notebook_launcher(broken, args=((3, 4),), num_processes=2)")
    assert reply.error_name == "RankFailed"
    assert "rank 1 of 2 failed first: ValueError: shape mismatch: (3, 4)" in reply.error_text
    assert "# the line at fault" in reply.error_text, "the cell's own source line is shown"
    assert "rank 0 afterwards" in reply.error_text
    assert "follower" not in reply.error_text, "none of the launcher's frames is shown"
    text = notebook.check(
        "try:\n"
        "    notebook_launcher(broken, args=(1,), num_processes=2)\n"
        "except RankFailed as failed:\n"
        "    print((failed.rank, type(failed.exception).__name__, failed.exception.args, len(failed.failures)))"
    )
    assert literal(text) == (1, "ValueError", ("shape mismatch: 1",), 2)
    notebook.check(SUM_OF_RANKS)
    assert literal(notebook.check("print(notebook_launcher(train, (1.0,), 2).value)")) == (0, 2, 3.0)


def test_a_killed_rank_is_named_with_its_signal_and_the_others_values_are_kept(notebook: Notebook) -> None:
    text = notebook.check(
        "def die():\n"
        "    import os, signal\n"
        "    if os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return 'alive'\n"
        "try:\n"
        "    notebook_launcher(die, num_processes=2)\n"
        "except RankFailed as failed:\n"
        "    print((failed.failures[0].signal_name, failed.rank, 'memory' in failed.hint, failed.result[0]))"
    )
    assert literal(text) == ("SIGKILL", 1, True, "alive")
    assert literal(notebook.check("print(list(notebook_launcher(lambda: 7, num_processes=2)))")) == [7, 7]


def test_a_rank_killed_in_a_group_is_the_cause_of_what_its_peers_see(notebook: Notebook) -> None:
    text = notebook.check(
        "def die():\n"
        "    import os, signal, torch.distributed as dist\n"
        "    dist.init_process_group()\n"
        "    if dist.get_rank() == 1:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    dist.barrier()\n"
        "causes = []\n"
        "for _ in range(8):\n"
        "    try:\n"
        "        notebook_launcher(die, num_processes=2)\n"
        "    except RankFailed as failed:\n"
        "        causes.append((failed.rank, failed.failures[0].signal_name, len(failed.failures)))\n"
        "print(causes)"
    )
    assert literal(text) == [(1, "SIGKILL", 2)] * 8


def test_a_rank_that_exits_is_a_failure(notebook: Notebook) -> None:
    for statement, expected in (
        ("os._exit(0)", "exit code 0 before the function returned"),
        ("os._exit(3)", "exit code 3 before the function returned"),
        ("raise SystemExit(4)", "SystemExit: 4"),
    ):
        reply = notebook.run(f"def leave():\n    import os\n    {statement}\nnotebook_launcher(leave, num_processes=2)")
        assert reply.error_name == "RankFailed"
        assert expected in reply.error_text


def test_ranks_that_wait_for_a_dead_one_are_ended_after_the_grace(notebook: Notebook) -> None:
    reply = notebook.run(
        "def half():\n"
        "    import os, torch.distributed as dist\n"
        "    if os.environ['RANK'] == '0':\n"
        "        raise KeyError('before the group forms')\n"
        "    dist.init_process_group()\n"
        "notebook_launcher(half, num_processes=2)"
    )
    assert "rank 0 of 2 failed first: KeyError" in reply.error_text


def test_two_launches_at_once_from_two_threads(notebook: Notebook) -> None:
    text = notebook.check(
        SUM_OF_RANKS + "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool:\n"
        "    both = list(pool.map(lambda s: notebook_launcher(train, (s,), 2)[1], [1.0, 10.0]))\n"
        "print(both)"
    )
    assert literal(text) == [(1, 2, 3.0), (1, 2, 30.0)]


@pytest.mark.slow
def test_two_notebooks_at_once_with_the_usual_port_taken(notebook: Notebook, fresh_notebook: Notebook) -> None:
    with socket.create_server(("127.0.0.1", 29500)):
        for opened in (notebook, fresh_notebook):
            opened.check("from notebook_accel import *\n" + SUM_OF_RANKS)
        requests = [
            opened.client.execute("print(notebook_launcher(train, (1.0,), 2).value)")
            for opened in (notebook, fresh_notebook)
        ]
        assert len(set(requests)) == 2
        for opened in (notebook, fresh_notebook):
            assert literal(opened.check("print(notebook_launcher(train, (1.0,), 2).value)")) == (0, 2, 3.0)


def test_an_explicit_port_is_used_and_a_taken_one_is_said(notebook: Notebook) -> None:
    port = free_port()
    code = f"print(notebook_launcher(lambda: os.environ['MASTER_PORT'], num_processes=1, use_port='{port}').value)"
    assert literal(notebook.check("import os\n" + code)) == port
    assert literal(notebook.check(code)) == port, "the same port serves the next run too"
    assert wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 5)
    # A supervisor counts as ended a moment before its store's thread has let go of the port.
    taken: list[socket.socket] = []
    assert wait_until(lambda: take(port, taken), 5)
    with taken[0]:
        reply = notebook.run(code)
    assert reply.error_name == "ConfigError"
    assert f"port {port}" in reply.error_text


def test_plain_process_groups_several_times(notebook: Notebook) -> None:
    text = notebook.check(
        "def again():\n"
        "    import torch, torch.distributed as dist\n"
        "    totals = []\n"
        "    for i in range(3):\n"
        "        dist.init_process_group('gloo')\n"
        "        x = torch.tensor([1.0 + i]); dist.all_reduce(x); totals.append(x.item())\n"
        "        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))\n"
        "        model(torch.ones(1, 2)).sum().backward()\n"
        "        dist.destroy_process_group()\n"
        "    return totals\n"
        "print(list(notebook_launcher(again, num_processes=2)))"
    )
    assert literal(text) == [[2.0, 4.0, 6.0]] * 2


def test_random_numbers_differ_unless_seeded(notebook: Notebook) -> None:
    text = notebook.check(
        "def draw():\n"
        "    import random, numpy, torch\n"
        "    return random.random(), numpy.random.rand(), torch.rand(1).item()\n"
        "free = [notebook_launcher(draw, num_processes=2) for _ in range(2)]\n"
        "held = [notebook_launcher(draw, num_processes=2, seed=3) for _ in range(2)]\n"
        "print(([x for r in free for x in r], [x for r in held for x in r]))"
    )
    free, held = literal(text)  # type: ignore[misc]
    for generator in range(3):
        assert len({draws[generator] for draws in free}) == 4
        assert len({draws[generator] for draws in held}) == 1


def test_surroundings_reach_the_ranks_and_the_kernel_keeps_its_own(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "beside_the_path.py").write_text("ANSWER = 42\n")
    text = notebook.check(
        "import os, sys, signal, random, torch, numpy\n"
        f"os.makedirs({str(tmp_path / 'folder')!r}); os.chdir({str(tmp_path / 'folder')!r})\n"
        f"sys.path.append({str(tmp_path)!r}); os.environ['SET_IN_A_CELL'] = 'yes'\n"
        "def state():\n"
        "    return (dict(os.environ), os.getcwd(), list(sys.path), random.getstate(), torch.get_rng_state().tolist(),\n"  # noqa: E501
        "            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)],\n"
        "            numpy.random.get_state()[2], torch.get_num_threads())\n"
        "def look():\n"
        "    import beside_the_path\n"
        "    return os.environ['SET_IN_A_CELL'], os.getcwd(), beside_the_path.ANSWER\n"
        "before = state()\n"
        "r = notebook_launcher(look, num_processes=2, seed=1)\n"
        "r1 = notebook_launcher(look, start_method='inline', num_processes=1, seed=1)\n"
        "print((list(r) + list(r1), before == state()))"
    )
    folder = str(tmp_path / "folder")
    assert literal(text) == ([("yes", folder, 42)] * 3, True)
    notebook.check(f"os.chdir('/'); sys.path.remove({str(tmp_path)!r}); del os.environ['SET_IN_A_CELL']")


def test_threads_per_rank(notebook: Notebook) -> None:
    text = notebook.check(
        "import os\n"
        "from notebook_accel.hardware.cpu import available_cores\n"
        "def threads():\n"
        "    import torch\n"
        "    return torch.get_num_threads(), os.environ['OMP_NUM_THREADS']\n"
        "a = notebook_launcher(threads, num_processes=2, devices='cpu')\n"
        "b = notebook_launcher(threads, num_processes=2, threads_per_rank=3)\n"
        "os.environ['OMP_NUM_THREADS'] = '5'\n"
        "c = notebook_launcher(threads, num_processes=2)\n"
        "del os.environ['OMP_NUM_THREADS']\n"
        "print((max(1, available_cores() // 2), list(a), list(b), list(c)))"
    )
    expected, a, b, c = literal(text)  # type: ignore[misc]
    assert a == [(expected, str(expected))] * 2
    assert b == [(3, "3")] * 2
    assert c == [(5, "5")] * 2


def test_models_are_synchronised_within_each_of_several_groups(notebook: Notebook) -> None:
    notebook.check(
        "def train():\n"
        "    import torch, torch.distributed as dist\n"
        "    dist.init_process_group('gloo')\n"
        "    rank = dist.get_rank()\n"
        "    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]\n"
        "    model = torch.nn.Linear(1, 1, bias=False)\n"
        "    torch.nn.init.constant_(model.weight, 10.0 * rank)\n"
        "    model = torch.nn.parallel.DistributedDataParallel(model, process_group=groups[rank // 2])\n"
        "    model(torch.tensor([[float(rank)]])).sum().backward()\n"
        "    everywhere = model.module.weight.grad.clone()\n"
        "    dist.all_reduce(everywhere)\n"
        "    result = model.module.weight.item(), model.module.weight.grad.item(), everywhere.item()\n"
        "    dist.destroy_process_group()\n"
        "    return result"
    )
    for _ in range(3):
        text = notebook.check("print(list(notebook_launcher(train, num_processes=4)))")
        assert literal(text) == [(0.0, 0.5, 6.0)] * 2 + [(20.0, 2.5, 6.0)] * 2
        assert "rank" not in text


def test_only_loopback_sockets_during_a_run(notebook: Notebook) -> None:
    text = notebook.check(
        SUM_OF_RANKS + "def look():\n"
        "    import os, psutil, torch.distributed as dist\n"
        "    train(1.0)\n"
        "    dist.barrier()\n"
        "    ours = [psutil.Process(), psutil.Process(os.getppid())]\n"
        "    found = {c.laddr.ip for p in ours for c in p.net_connections() if c.laddr and c.family != 1}\n"
        "    dist.barrier()\n"
        "    return sorted(found)\n"
        "print(list(notebook_launcher(look, num_processes=2)))"
    )
    for addresses in literal(text):  # type: ignore[attr-defined]
        assert addresses
        assert all(address.startswith("127.") or address in {"::1", "::ffff:127.0.0.1"} for address in addresses)


def test_twenty_launches_leave_nothing_behind(notebook: Notebook) -> None:
    count = (
        "import os, threading, psutil\n"
        "def have():\n"
        "    return (len(os.listdir('/proc/self/fd')), threading.active_count(), sorted(os.listdir('/dev/shm')))\n"
    )
    notebook.check(SUM_OF_RANKS + count + "notebook_launcher(train, (1.0,), 2)")
    wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 5)
    text = notebook.check(
        "import gc; gc.collect(); before = have()\n"
        "for _ in range(20):\n"
        "    r = notebook_launcher(train, (1.0,), 2)\n"
        "del r; gc.collect(); print([before, have()])"
    )
    before, after = literal(text)  # type: ignore[misc]
    assert after[2] == before[2]
    assert after[0] <= before[0]  # fewer when something older was collected meanwhile
    assert after[1] <= before[1]
    assert wait_until(lambda: names(notebook.descendants()) == ["nbacc-zygote"], 5), notebook.descendants()
    zygote = next(p for p in notebook.descendants() if p.name() == "nbacc-zygote")
    assert zygote.num_threads() == 1
    assert zygote.num_fds() < 20
