"""What other launchers are known to fail at, one test for each case.

The first group are failures of launchers for PyTorch at large, the second ones of Hugging Face Accelerate. Cases that
need a GPU are marked so.
"""

from __future__ import annotations

import re
import socket

import pytest

from tests.integration.kernels import Notebook, names
from tests.integration.test_launch import SUM_OF_RANKS, literal
from tests.integration.test_stop import SOON_SECONDS, stopped
from tests.patience import wait_until

GROUP = """
import os, time
def rank(): return int(os.environ["RANK"])
def in_group():
    import torch, torch.distributed as dist
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist, torch
"""


def is_quiet(notebook: Notebook) -> bool:
    return names(notebook.descendants()) == ["nbacc-zygote"]


# ---- launchers at large


@pytest.mark.gpu
def test_the_kernel_used_the_gpu_before_the_launch(notebook: Notebook) -> None:
    notebook.check("import torch\nx = torch.ones(1, device='cuda')")
    code = "print(notebook_launcher(lambda: str(torch.ones(1, device='cuda').device), num_processes=1).value)"
    assert "cuda" in notebook.check(code)


@pytest.mark.parametrize("size", [200_000, 100_000_000])
def test_every_rank_returns_200_kb_or_100_mb(notebook: Notebook, size: int) -> None:
    text = notebook.check(
        f"def big():\n"
        f"    import os, numpy\n"
        f"    return os.urandom(1) * {size}, numpy.full({size} // 8, float(os.environ['RANK']))\n"
        f"r = notebook_launcher(big, num_processes=2)\n"
        f"print([(len(data), array.nbytes, float(array[-1]), array.flags.writeable) for data, array in r])\n"
    )
    assert literal(text) == [(size, size // 8 * 8, float(rank), True) for rank in range(2)]
    notebook.check("del r")


def test_a_launch_from_a_thread_that_ends(notebook: Notebook) -> None:
    text = notebook.check(
        "import threading\n"
        "found = []\n"
        "def work():\n"
        "    found.append(list(notebook_launcher(lambda: 5, num_processes=2)))\n"
        "for _ in range(2):\n"
        "    thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "print(found)"
    )
    assert literal(text) == [[5, 5], [5, 5]]


def test_a_run_goes_on_when_the_thread_that_launched_it_ends(notebook: Notebook) -> None:
    text = notebook.check(
        "import threading, time\n"
        "runs = []\n"
        "def patient(): time.sleep(0.5); return 5\n"
        "def work(): runs.append(notebook_launcher(patient, num_processes=2, block=False))\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "print([runs[0].state, list(runs[0].result())])"
    )
    assert literal(text) == ["running", [5, 5]]


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_one_rank_ends_in_an_odd_way(notebook: Notebook, ending: str, words: str) -> None:
    reply = notebook.run(
        GROUP + "def odd():\n"
        "    dist, torch = in_group()\n"
        f"    if rank() == 1: {ending}\n"
        "    dist.barrier()\n"
        "notebook_launcher(odd, num_processes=2)"
    )
    assert reply.error_name == "RankFailed"
    assert words in next(line for line in reply.error_text.splitlines() if "rank 1 of 2 failed first" in line)
    assert wait_until(lambda: is_quiet(notebook), 5)


def test_a_rank_that_exits_with_0_has_returned(notebook: Notebook) -> None:
    text = notebook.check("import sys\nr = notebook_launcher(lambda: sys.exit(0), num_processes=2)\nprint(list(r))")
    assert literal(text) == [None, None]


def test_one_rank_exits_with_0_while_the_other_waits_for_it(notebook: Notebook) -> None:
    reply = notebook.run(
        GROUP + "import sys\n"
        "def odd():\n"
        "    dist, torch = in_group()\n"
        "    if rank() == 1: sys.exit(0)\n"
        "    dist.barrier()\n"
        "notebook_launcher(odd, num_processes=2)"
    )
    assert reply.error_name == "RankFailed"
    assert "rank 0 of 2 failed first" in reply.error_text
    assert "-> rank 1 had returned: all ranks must take part in the same collectives" in reply.error_text
    assert wait_until(lambda: is_quiet(notebook), 5)


def test_an_interrupt_during_a_collective(notebook: Notebook) -> None:
    reply, seconds = stopped(
        notebook,
        GROUP + "def stuck():\n"
        "    dist, torch = in_group()\n"
        "    print('ready', flush=True)\n"
        "    dist.recv(torch.zeros(1), 1 - rank())\n"
        "notebook_launcher(stuck, num_processes=2)",
    )
    assert reply.error_name == "KeyboardInterrupt"
    assert seconds < SOON_SECONDS, "both wait for each other, in native code"
    assert wait_until(lambda: is_quiet(notebook), 6)


def test_a_killed_kernel_leaves_no_worker(fresh_notebook: Notebook) -> None:
    notebook = fresh_notebook
    notebook.check("from notebook_accel import *\nimport time")
    notebook.check("run = notebook_launcher(lambda: time.sleep(600), (), 2, block=False)")
    assert wait_until(lambda: sum("rank" in name for name in names(notebook.descendants())) == 2, 20)
    workers = notebook.descendants()
    notebook.kill()
    assert wait_until(lambda: not names(workers), 5), names(workers)


def test_signal_handlers_folder_and_environment_of_the_kernel_are_as_before(notebook: Notebook) -> None:
    text = notebook.check(
        "import os, signal\n"
        "def state(): return [signal.getsignal(s) for s in signal.valid_signals()], os.getcwd(), dict(os.environ)\n"
        "before = state()\n"
        "def change():\n"
        "    os.chdir('/'); os.environ['CHANGED'] = '1'; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "notebook_launcher(change, num_processes=2)\n"
        "print(before == state())"
    )
    assert literal(text) is True


@pytest.mark.slow
def test_a_cell_that_trains_for_31_seconds(notebook: Notebook) -> None:
    text = notebook.check(
        GROUP + "def train():\n"
        "    dist, torch = in_group()\n"
        "    end = time.monotonic() + 31\n"
        "    while time.monotonic() < end:\n"
        "        torch.ones(100, 100) @ torch.ones(100, 100); time.sleep(0.01)\n"
        "    dist.barrier()\n"
        "    return 'trained'\n"
        "print(list(notebook_launcher(train, num_processes=2)))"
    )
    assert literal(text) == ["trained", "trained"]


def test_every_kind_of_output_from_four_ranks(notebook: Notebook) -> None:
    reply = notebook.run(
        GROUP + "def speak():\n"
        "    import ctypes, sys\n"
        "    from tqdm.auto import tqdm\n"
        "    for _ in range(1000): sys.stderr.write('e' * 1023 + '\\n')\n"
        "    for _ in tqdm(range(5), desc='bar'): pass\n"
        "    os.write(1, 'gr\\u00fc'.encode()[:3]); time.sleep(0.05); os.write(1, 'gr\\u00fc\\u00df'.encode()[3:])\n"
        "    libc = ctypes.CDLL(None); libc.puts(b'\\nfrom C'); libc.fflush(None)\n"
        "    print('no line end', end='')\n"
        "r = notebook_launcher(speak, num_processes=4, devices='cpu')\n"
        "print([(len(r.logs(k)), r.logs(k)[-27:]) for k in range(4)])"
    )
    assert reply.error_name is None, reply.error_text
    end = "gr\u00fc\u00df\nfrom C\nno line end"
    assert literal(reply.text) == [(1_024_000 + len(end), "eee\n" + end)] * 4
    assert "bar: 100%" in reply.bundles[-1]["text/plain"]
    assert "[rank 3] no line end\n" in reply.text
    assert len(reply.text) < 1_500_000, "4 MB were printed"


def test_rank_1_is_named_though_rank_0_fails_right_after_it_in_20_of_20_runs(notebook: Notebook) -> None:
    text = notebook.check(
        GROUP + "def fail():\n"
        "    dist, torch = in_group()\n"
        "    if rank() == 1: raise LookupError('the cause')\n"
        "    dist.recv(torch.zeros(1), 1)\n"
        "named = []\n"
        "for _ in range(20):\n"
        "    try: notebook_launcher(fail, num_processes=2)\n"
        "    except RankFailed as error: named.append((error.rank, str(error.exception)))\n"
        "print((sorted(set(named)), len(named)))"
    )
    assert literal(text) == ([(1, "the cause")], 20)


def test_exceptions_that_cannot_be_pickled_or_have_an_init_of_their_own(notebook: Notebook) -> None:
    text = notebook.check(
        "import threading\n"
        "class Own(Exception):\n"
        "    def __init__(self, code, *, where): super().__init__(f'code {code} in {where}'); self.code = code\n"
        "class Locked(Exception):\n"
        "    def __init__(self): super().__init__('has a lock'); self.lock = threading.Lock()\n"
        "def own(): raise Own(7, where='a cell')\n"
        "def locked(): raise Locked\n"
        "said = []\n"
        "for f in (own, locked):\n"
        "    try: notebook_launcher(f, num_processes=2)\n"
        "    except RankFailed as error: said.append((error.what, getattr(error.exception, 'code', None)))\n"
        "print(said)"
    )
    assert [what.partition(" first: ")[2] for what, _ in literal(text)] == [  # type: ignore[attr-defined]
        "Own: code 7 in a cell",
        "Locked: has a lock",
    ]
    assert [code for _, code in literal(text)] == [7, None]  # type: ignore[attr-defined]


def test_variables_of_the_kernel_are_its_own(notebook: Notebook) -> None:
    text = notebook.check(
        "x = 5\n"
        "def f():\n"
        "    global x\n"
        "    x = 6\n"
        "    return x\n"
        "print((list(notebook_launcher(f, num_processes=2)), x))"
    )
    assert literal(text) == ([6, 6], 5)


def test_of_two_runs_in_two_notebooks_one_is_stopped(notebook: Notebook, fresh_notebook: Notebook) -> None:
    start = (
        "from notebook_accel import *\nimport time\n"
        "run = notebook_launcher(lambda: time.sleep(2) or 'done', num_processes=2, block=False)"
    )
    notebook.check(start)
    fresh_notebook.check(start)
    fresh_notebook.check("run.stop()")
    assert literal(fresh_notebook.check("print(repr(run.state))")) == "interrupted"
    assert literal(notebook.check("print(list(run.result()))")) == ["done", "done"]


@pytest.mark.gpu
def test_a_gpu_is_chosen_by_its_number(notebook: Notebook) -> None:
    text = notebook.check(
        "import os\nprint(list(notebook_launcher(lambda: os.environ['CUDA_VISIBLE_DEVICES'], devices=[0])))"
    )
    assert literal(text) == ["0"]


def test_other_world_sizes_in_the_same_kernel(notebook: Notebook) -> None:
    notebook.check(SUM_OF_RANKS)
    for size in (1, 2, 4, 1):
        text = notebook.check(f"print(list(notebook_launcher(train, args=(2.0,), num_processes={size})))")
        assert literal(text) == [(rank, size, size * (size + 1.0)) for rank in range(size)]


@pytest.mark.gpu
def test_a_captured_gpu_tensor_is_named_before_the_start(notebook: Notebook) -> None:
    reply = notebook.run(
        "import torch\nweights = torch.ones(3, device='cuda')\n"
        "notebook_launcher(lambda: weights.sum(), num_processes=1)"
    )
    assert reply.error_name == "PayloadError"
    assert "weights" in reply.error_text


def test_a_large_captured_array_is_named_before_the_start(notebook: Notebook) -> None:
    text = notebook.check(
        "import numpy\nlarge = numpy.zeros(300_000_000, dtype='uint8')\n"
        "r = notebook_launcher(lambda: len(large), num_processes=2)\ndel large"
    )
    assert "large" in text
    assert "share(" in text


# ---- Hugging Face Accelerate


def test_b2_every_ranks_value_is_returned(notebook: Notebook) -> None:
    text = notebook.check("import os\nprint(list(notebook_launcher(lambda: os.environ['RANK'], num_processes=2)))")
    assert literal(text) == ["0", "1"]


def test_b3_rank_1s_error_is_the_error_with_the_cells_line_in_25_lines(notebook: Notebook) -> None:
    reply = notebook.run(
        GROUP + "def train():\n"
        "    dist, torch = in_group()\n"
        "    if rank() == 1:\n"
        "        raise ValueError('bad batch')  # the line\n"
        "    dist.barrier()\n"
        "notebook_launcher(train, num_processes=2)"
    )
    assert reply.error_name == "RankFailed"
    text = re.sub(r"\x1b\[[0-9;]*m", "", reply.error_text)
    assert text.startswith("RankFailed: rank 1 of 2 failed first: ValueError: bad batch\nCell In[")
    assert "raise ValueError('bad batch')  # the line" in text
    assert len(text.splitlines()) <= 25


def test_b4_ten_interrupts_and_the_next_run_works_at_once(notebook: Notebook) -> None:
    notebook.check("import time\ndef sleep():\n    print('ready', flush=True)\n    time.sleep(600)\n")
    for _ in range(10):
        reply, _ = stopped(notebook, "notebook_launcher(sleep, num_processes=2)")
        assert reply.error_name == "KeyboardInterrupt"
        assert literal(notebook.check("print(list(notebook_launcher(lambda: 1, num_processes=2)))")) == [1, 1]


def test_b6_state_made_in_the_kernel_does_no_harm(notebook: Notebook) -> None:
    text = notebook.check(
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "a = torch.randn(600, 600); b = (a @ a).exp()\n"
        "model = torch.nn.Linear(600, 600); model(a).sum().backward()\n"
        "optimizer = torch.optim.Adam(model.parameters()); optimizer.step()\n"
        "def heavy():\n"
        "    accelerator = Accelerator()\n"
        "    prepared = accelerator.prepare(model)\n"
        "    return accelerator.num_processes, prepared(torch.ones(1, 600)).shape == (1, 600)\n"
        "print(list(notebook_launcher(heavy, num_processes=2)))"
    )
    assert literal(text) == [(2, True)] * 2


def test_b7_one_process_and_then_two(notebook: Notebook) -> None:
    code = "print([notebook_launcher(lambda: Accelerator().num_processes, num_processes=n).value for n in (1, 2)])"
    assert literal(notebook.check(code)) == [1, 2]


def test_b8_tqdm_auto_and_display_in_rank_0_appear_in_the_cell(notebook: Notebook) -> None:
    reply = notebook.run(
        GROUP + "from IPython.display import HTML, display\nfrom tqdm.auto import tqdm\n"
        "def f():\n"
        "    if rank() == 0:\n"
        "        display(HTML('<b>bold</b>'))\n"
        "        for _ in tqdm(range(3), desc='train'): pass\n"
        "notebook_launcher(f, num_processes=2)"
    )
    assert reply.error_name is None, reply.error_text
    assert any(entry.get("text/html") == "<b>bold</b>" for entry in reply.bundles)
    assert any(entry["text/plain"].startswith("train: 100%") for entry in reply.bundles)


def test_b9_the_usual_port_is_taken(notebook: Notebook) -> None:
    with socket.create_server(("127.0.0.1", 29500)):
        text = notebook.check(SUM_OF_RANKS + "print(notebook_launcher(train, (1.0,), 2).value)")
    assert literal(text) == (0, 2, 3.0)
