"""What a notebook shows when something fails, in a real kernel."""

from __future__ import annotations

import re

import pytest

from tests.integration.kernels import Notebook
from tests.integration.test_launch import literal

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LAUNCHER = re.compile(r"notebook_accel/(launch|worker|wire|config)|follower|run_in_cell|IPython/")


class Shown:
    """What the front end was told of an error."""

    def __init__(self, notebook: Notebook, code: str) -> None:
        notebook.check("from notebook_accel import *\nimport os, sys, signal, ctypes, torch")
        reply = notebook.run(code)
        self.name = reply.error_name
        self.coloured = reply.error_text
        self.printed = reply.text
        self.lines = _COLOURS.sub("", reply.error_text).splitlines()
        self.text = "\n".join(self.lines)

    def line(self, start: str) -> int:
        """The number of the line that begins so."""
        found = [number for number, line in enumerate(self.lines) if line.startswith(start)]
        assert found, f"no line begins with {start!r}:\n{self.text}"
        return found[0]

    def is_short_and_the_users(self) -> None:
        assert len(self.lines) <= 25, self.text
        assert not _LAUNCHER.search(self.text), self.text
        assert "ipykernel_" not in self.text, self.text


def test_a_bug_in_the_cells_function(notebook: Notebook) -> None:
    shown = Shown(
        notebook,
        "def loss_of(x):\n"
        "    y = x - x\n"
        "    return x / y  # the line at fault\n"
        "\n"
        "def train(x):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        loss_of(x)\n"
        "    return x\n"
        "notebook_launcher(train, args=(1,), num_processes=2)",
    )
    shown.is_short_and_the_users()
    assert shown.lines[0] == "RankFailed: rank 1 of 2 failed first: ZeroDivisionError: division by zero"
    assert re.fullmatch(r"Cell In\[\d+\], line 7, in train\(x\)", shown.lines[1])
    inner = next(
        n for n, line in enumerate(shown.lines) if re.fullmatch(r"Cell In\[\d+\], line 3, in loss_of\(x\)", line)
    )
    assert shown.lines[inner + 1 : inner + 4] == [
        "      1 def loss_of(x):",
        "      2     y = x - x",
        "----> 3     return x / y  # the line at fault",
    ]
    assert shown.lines[shown.line("ZeroDivisionError: division by zero") - 1] == ""
    assert shown.lines[-1].startswith("  -> ")
    assert "\x1b[31mRankFailed\x1b[39m" in shown.coloured


def test_the_text_of_the_error_has_no_colours_and_the_whole_traceback(notebook: Notebook) -> None:
    notebook.check(
        "def broken():\n"
        "    raise ValueError('\\n'.join(map(str, range(10_000))))\n"
        "try:\n"
        "    notebook_launcher(broken, num_processes=2)\n"
        "except RankFailed as error:\n"
        "    failed = error"
    )
    found = notebook.check(
        "print(('\\x1b' in str(failed), str(failed).count('\\n') > 10_000, '9999' in failed.failures[0].traceback,\n"
        "    failed.__cause__, failed.__context__, failed.exception is failed.exception))"
    )
    assert literal(found) == (False, True, True, None, None, True)
    shown = Shown(notebook, "notebook_launcher(broken, num_processes=2)")
    shown.is_short_and_the_users()
    assert "... 9,988 more lines; sys.last_value.failures[0].traceback has all ..." in shown.lines
    assert literal(notebook.check("print(len(sys.last_value.failures[0].traceback.splitlines()) > 10_000)")) is True


MODEL = """
class Inner(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.linear(x, torch.ones(2, 3))

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.layers = torch.nn.Sequential(torch.nn.Identity(), Inner())

    def forward(self, x):
        return self.layers(x * self.weight)

def train():
    model = Accelerator().prepare(Model())
    model(torch.ones(1, 2))
notebook_launcher(train, num_processes=2)"""


def test_a_bug_below_ddp_and_modules(notebook: Notebook) -> None:
    shown = Shown(notebook, MODEL)
    shown.is_short_and_the_users()
    assert "failed first: RuntimeError: " in shown.lines[0]
    for line in (
        "model(torch.ones(1, 2))",
        "return self.layers(x * self.weight)",
        "return torch.nn.functional.linear(",
    ):
        assert re.search(rf"-> \d+ +{re.escape(line)}", shown.text), shown.text
    folded = [line for line in shown.lines if line.startswith("... ")]
    assert len(folded) == 2
    assert all("frames in torch/nn/" in line for line in folded)


def test_a_bug_in_a_loaders_worker(notebook: Notebook) -> None:
    shown = Shown(
        notebook,
        "class Data(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n"
        "        return 10\n"
        "    def __getitem__(self, i):\n"
        "        raise LookupError(f'no item {i}')\n"
        "def train():\n"
        "    for batch in torch.utils.data.DataLoader(Data(), num_workers=1):\n"
        "        pass\n"
        "notebook_launcher(train, num_processes=2)",
    )
    shown.is_short_and_the_users()
    assert "failed first: LookupError: no item 0 (in DataLoader worker process 0)" in shown.lines[0]
    assert shown.lines[shown.line("----> 5 ")].endswith("raise LookupError(f'no item {i}')")
    assert shown.lines[shown.line("----> 7 ")].strip().endswith("DataLoader(Data(), num_workers=1):")


def test_what_a_failed_function_leaves_is_not_collected_while_its_error_is_told(notebook: Notebook) -> None:
    shown = Shown(
        notebook,
        "import gc\n"
        "class Loader:\n"
        "    def __del__(self): print('collected')\n"
        "class Told(Exception):\n"
        "    def __str__(self): return f'told {gc.collect() >= 0}'\n"
        "def train():\n"
        "    loader = Loader()\n"
        "    loader.itself = loader\n"
        "    del loader\n"
        "    raise Told\n"
        "notebook_launcher(train, num_processes=2)",
    )
    assert "Told: told True" in shown.text
    assert "collected" not in shown.printed


def test_an_exception_with_an_init_of_its_own_comes_back(notebook: Notebook) -> None:
    text = notebook.check(
        "class OwnError(Exception):\n"
        "    def __init__(self, code, *, detail):\n"
        "        super().__init__(f'{code}: {detail}')\n"
        "        self.code = code\n"
        "def train():\n"
        "    raise OwnError(3, detail='x')\n"
        "try:\n"
        "    notebook_launcher(train, num_processes=2)\n"
        "except RankFailed as failed:\n"
        "    found = failed.exception\n"
        "print((type(found) is OwnError, found.code, str(found)))"
    )
    assert literal(text) == (True, 3, "3: x")


def test_a_killed_rank(notebook: Notebook) -> None:
    shown = Shown(
        notebook,
        "def train():\n"
        "    if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    signal.pause()\n"
        "notebook_launcher(train, num_processes=2)",
    )
    shown.is_short_and_the_users()
    assert shown.lines[0] == "RankFailed: rank 1 of 2 failed first: the process was killed by SIGKILL"
    assert shown.lines[1] == "rank 0 afterwards: it was still running and was interrupted"
    assert re.search(r"the rank used up to \d+ MiB", shown.lines[-1])


def test_a_crash_of_native_code(notebook: Notebook) -> None:
    shown = Shown(
        notebook,
        "def crash():\n"
        "    ctypes.string_at(0)\n"
        "def train():\n"
        "    if os.environ['RANK'] == '1':\n"
        "        crash()\n"
        "    signal.pause()\n"
        "notebook_launcher(train, num_processes=2)",
    )
    shown.is_short_and_the_users()
    assert shown.lines[0] == "RankFailed: rank 1 of 2 failed first: the process was killed by SIGSEGV"
    assert re.search(r"Cell In\[\d+\], line 5, in train\n", shown.text)
    assert shown.lines[shown.line("----> 2 ")].endswith("ctypes.string_at(0)")
    assert "Fatal Python error: Segmentation fault" in shown.lines


def test_an_exit_that_says_all_is_well_is_a_return(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n    sys.exit(0)\nresult = notebook_launcher(train, num_processes=2)\nprint(list(result))"
    )
    assert "ranks 0 and 1 called sys.exit(0), which counts as a return of None" in text
    assert literal(text) == [None, None]
    text = notebook.check("print(list(notebook_launcher(train, num_processes=1, start_method='inline')))")
    assert "rank 0 called sys.exit(0)" in text


@pytest.mark.parametrize(
    ("statement", "first"), [("sys.exit(3)", "SystemExit: 3"), ("raise KeyboardInterrupt", "KeyboardInterrupt")]
)
def test_an_exit_or_interrupt_of_the_functions_own(notebook: Notebook, statement: str, first: str) -> None:
    shown = Shown(
        notebook,
        f"def train():\n    if os.environ['RANK'] == '1': {statement}\n    signal.pause()\n"
        "notebook_launcher(train, num_processes=2)",
    )
    shown.is_short_and_the_users()
    assert shown.lines[0] == f"RankFailed: rank 1 of 2 failed first: {first}"
    assert shown.lines[shown.line("----> 2 ")].endswith(statement)


def test_the_cause_is_named_though_what_it_caused_came_first(notebook: Notebook) -> None:
    text = notebook.check(
        "def train():\n"
        "    import time\n"
        "    if os.environ['RANK'] == '0':\n"
        "        raise RuntimeError('[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711')\n"
        "    time.sleep(0.1)\n"
        "    raise ValueError('bad')\n"
        "found = []\n"
        "for _ in range(20):\n"
        "    try:\n"
        "        notebook_launcher(train, num_processes=2)\n"
        "    except RankFailed as failed:\n"
        "        found.append((failed.rank, type(failed.exception).__name__))\n"
        "print(found)"
    )
    assert literal(text) == [(1, "ValueError")] * 20


def test_a_gpu_without_memory(notebook: Notebook) -> None:
    shown = Shown(
        notebook,
        "def train():\n"
        "    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total '\n"
        "        'capacity of 79.11 GiB of which 12.34 GiB is free. Including non-PyTorch memory, this process '\n"
        "        'has 66.00 GiB memory in use.')\n"
        "notebook_launcher(train, num_processes=1)",
    )
    shown.is_short_and_the_users()
    what = "OutOfMemoryError: no memory on GPU 0: 20.00 GiB asked for, 12.34 GiB free of 79.11 GiB"
    assert shown.lines[0] == f"RankFailed: rank 0 of 1 failed: {what}"
    assert "batch size" in shown.lines[-1]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("notebook_launcher(train, num_processes=-1)", "ConfigError"),
        ("notebook_launcher(lambda: lock)", "PayloadError"),
        ("Accelerator()", "NotInWorkerError"),
        ("notebook_launcher(train, timeout_seconds=0.5)", "RunTimedOut"),
    ],
)
def test_an_error_of_the_launcher_shows_the_users_call(notebook: Notebook, call: str, name: str) -> None:
    shown = Shown(
        notebook,
        "import threading\n"
        "lock = threading.Lock()\n"
        "def train():\n"
        "    signal.pause()\n"
        "def fit():\n"
        f"    return {call}\n"
        "fit()",
    )
    assert shown.name == name
    shown.is_short_and_the_users()
    assert re.search(r"Cell In\[\d+\], line 7\n", shown.text), shown.text
    assert re.search(r"Cell In\[\d+\], line 6, in fit\(\)", shown.text)
    assert shown.lines[shown.line("----> 6 ")].endswith(call)
    assert shown.lines[-1].startswith("  -> ")
    if name == "RunTimedOut":
        assert re.search(r"rank 0: in train \(Cell In\[\d+\], line 4\): signal.pause\(\)", shown.text)


def test_an_interrupted_cell_shows_no_frames_of_the_launcher(notebook: Notebook) -> None:
    notebook.check("import time\ndef wait():\n    print('ready', flush=True)\n    time.sleep(600)")
    pressed: list[bool] = []

    def press(text: str) -> None:
        if text.count("ready") == 2 and not pressed:
            pressed.append(True)
            notebook.interrupt()

    reply = notebook.run("notebook_launcher(wait, num_processes=2)", press)
    assert reply.error_name == "KeyboardInterrupt"
    text = _COLOURS.sub("", reply.error_text)
    assert not _LAUNCHER.search(text), text
    assert re.search(r"rank 1: in wait \(Cell In\[\d+\], line 4\): time.sleep\(600\)", text)
