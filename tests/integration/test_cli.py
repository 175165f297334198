"""The commands as people give them: in processes of their own, with real ranks."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from notebook_accel.config import RunConfig
from tests.patience import stopwatch

ROOT = Path(__file__).parents[2]
CLI = [sys.executable, "-m", "notebook_accel"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

TRAIN = """
import json, os, sys, torch
from notebook_accel import Accelerator

accelerator = Accelerator()
torch.manual_seed(3)
model = torch.nn.Linear(3, 1)
data = torch.utils.data.TensorDataset(torch.randn(24, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model, optimizer, loader = accelerator.prepare(model, optimizer, torch.utils.data.DataLoader(data, batch_size=4))
for (x,) in loader:
    accelerator.backward((model(x) - x.sum(1, keepdim=True)).square().mean())
    optimizer.step()
    optimizer.zero_grad()
world = accelerator.num_processes, str(accelerator.device), accelerator.mixed_precision
kind, weights = str(accelerator.distributed_type), [p.tolist() for p in model.parameters()]
said = {"rank": accelerator.process_index, "world": [*world, kind], "weights": weights}
said |= {"threads": torch.get_num_threads(), "restarts": os.environ.get("TORCHELASTIC_RESTART_COUNT")}
sys.stdout.write(json.dumps(said) + "\\n")  # in one piece: all ranks write to the same pipe
sys.stdout.flush()
accelerator.end_training()
"""
SLEEP = """
import os, time
from notebook_accel import Accelerator
Accelerator()
print(f"ready {os.getpid()}\\n", end="", flush=True)
while True: time.sleep(1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, code in {"train": TRAIN, "sleep": SLEEP}.items():
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def variables(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NOTEBOOK_ACCEL_HOME": str(folder / "home"), **more}


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = variables(folder, **more)
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def launch(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run(folder, *CLI, "launch", *words, **more)


def said(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda each: each["rank"])


def test_a_script_is_the_same_run_however_it_is_launched(folder: Path) -> None:
    on_cpu = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    (folder / "tmp").mkdir()
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
    ours = said(launch(folder, "--num-processes", "2", "--devices", "cpu", "train.py", **own))
    assert [path.name for path in (folder / "tmp").iterdir() if "inductor" not in path.name] == []  # torch's cache
    torchs = said(run(folder, *TORCHRUN, "train.py", **on_cpu))
    assert ours == torchs
    assert [each["world"] for each in ours] == [[2, "cpu", "no", "DistributedType.MULTI_CPU"]] * 2
    assert ours[0]["weights"] == ours[1]["weights"]


@pytest.mark.slow
def test_one_process_is_the_same_as_plain_python(folder: Path) -> None:
    ours = said(launch(folder, "--num-processes", "1", "--devices", "cpu", "train.py", OMP_NUM_THREADS="1"))
    plain = said(run(folder, sys.executable, "train.py", OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"))
    assert plain == [{**ours[0], "restarts": None}]
    assert ours[0]["world"] == [1, "cpu", "no", "DistributedType.NO"]


@pytest.mark.slow
def test_what_is_asked_reaches_the_accelerator(folder: Path) -> None:
    words = ["--devices", "cpu", "--mixed_precision", "bf16", "--threads-per-rank", "2", "-m", "train"]
    done = launch(folder, "--num-processes", "2", *words)
    assert done.stderr.splitlines()[0] == "notebook_accel: 2 CPU processes, gloo, bf16"
    assert [(each["world"][2], each["threads"]) for each in said(done)] == [("bf16", 2)] * 2  # type: ignore[index]


@pytest.mark.slow
def test_labels_are_put_before_lines_and_no_line_is_lost(folder: Path) -> None:
    (folder / "lines.py").write_text("for n in range(300): print(n)\n")
    done = launch(folder, "--num-processes", "2", "--devices", "cpu", "--log-prefix", "[${rank}] ", "lines.py")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"[{rank}] {n}" for rank in range(2) for n in range(300))


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("sys.exit(7)", 7, "rank 1 failed first, with exit code 7"),
        ("raise ValueError('as asked')", 1, "ValueError: as asked"),
        ("os.kill(os.getpid(), 9)", 128 + 9, "rank 1 was ended first, by SIGKILL"),
    ],
)
def test_the_exit_code_is_the_scripts(folder: Path, end: str, code: int, words: str) -> None:
    (folder / "end.py").write_text(f"import os, sys\nif os.environ['RANK'] == '1': {end}\n")
    done = launch(folder, "--num-processes", "2", "--devices", "cpu", "end.py")
    assert done.returncode == code
    assert words in done.stderr
    assert "torch/distributed/run.py" not in done.stderr  # the launcher has no traceback of its own


@pytest.mark.slow
def test_a_failed_script_is_started_again(folder: Path) -> None:
    (folder / "again.py").write_text("import os, sys\nsys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')\n")
    words = ["--num-processes", "2", "--devices", "cpu", "again.py"]
    assert launch(folder, "--max-restarts", "1", *words).returncode == 0
    assert launch(folder, *words).returncode == 1


@pytest.mark.slow
def test_a_script_that_takes_too_long_is_ended(folder: Path) -> None:
    done = launch(folder, "--num-processes", "2", "--devices", "cpu", "--timeout-seconds", "0.5", "sleep.py")
    assert done.returncode == 124
    assert "had its 0.5 seconds" in done.stderr


def hear_signals() -> None:
    """Undo what a shell does to commands in its background: a command that was told to ignore signals does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def sleeping(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The command that launches two ranks which wait; it is ended in any case."""
    command = [*CLI, "launch", "--num-processes", "2", "--devices", "cpu", "sleep.py"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=variables(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C of its own
        preexec_fn=hear_signals,  # noqa: PLW1509 - no thread of pytest's forks
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def asleep(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The same, once both ranks are there."""
    with sleeping(folder) as process:
        assert process.stdout is not None
        yield process, [int(process.stdout.readline().split()[1]) for _ in range(2)]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_of_it(folder: Path, number: signal.Signals, code: int) -> None:
    with asleep(folder) as (process, ranks):
        started = family(process)
        assert {each.pid for each in started} >= set(ranks)
        os.killpg(process.pid, number)  # as a terminal does
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert psutil.wait_procs(started, timeout=30)[1] == []
    assert "notebook_accel: ending the ranks" in errors
    assert "notebook_accel/cli" not in errors  # no traceback of the command's own
    assert "torch/distributed/run.py" not in errors


def test_an_interrupt_before_there_are_ranks_leaves_no_traceback(folder: Path) -> None:
    with sleeping(folder) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "notebook_accel: 2 CPU processes, gloo\n"
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (printed, "Traceback" in errors) == ("", False), errors


@pytest.mark.slow
def test_a_second_interrupt_ends_ranks_that_do_not_listen(folder: Path) -> None:
    deaf = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\n" + SLEEP
    (folder / "sleep.py").write_text(deaf)
    with asleep(folder) as (process, _):
        started = family(process)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any("ending the ranks" in line for line in iter(process.stderr.readline, ""))
        with stopwatch() as watch:
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
        assert watch.seconds < 10  # torch's launcher would wait 30 seconds
        assert psutil.wait_procs(started, timeout=30)[1] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the mechanism is Linux's")
def test_ranks_do_not_outlive_a_command_that_was_killed(folder: Path) -> None:
    with asleep(folder) as (process, _):
        started = family(process)
        process.kill()
        assert psutil.wait_procs(started, timeout=60)[1] == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["missing.py"], "there is no script 'missing.py'"),
        (["--mixed-precision", "half", "train.py"], "unknown mixed_precision 'half'"),
        (["--config-file", "missing.yaml", "train.py"], "missing.yaml cannot be read"),
        (["--devices", "7", "train.py"], "names [7]"),
    ],
)
def test_bad_input_is_refused_in_words_before_anything_starts(folder: Path, words: list[str], named: str) -> None:
    done = launch(folder, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_env_tells_the_versions_and_imports_no_torch(folder: Path) -> None:
    code = "import sys; from notebook_accel.cli.main import main; main(['env']); print('torch' in sys.modules)"
    done = run(folder, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("notebook_accel: ")
    assert any(line.startswith("torch: 2.") for line in lines)
    assert lines[-1] == "False"


def test_what_config_writes_is_what_launch_starts_from(folder: Path) -> None:
    assert run(folder, *CLI, "config", "--default").returncode == 0
    file = folder / "home" / "default_config.yaml"
    file.write_text(file.read_text().replace("devices: auto", "devices: cpu").replace("restarts: 0", "restarts: 1"))
    assert "devices: cpu" in run(folder, *CLI, "config", "--show").stdout.splitlines()
    (folder / "again.py").write_text("import os, sys\nsys.exit(os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')\n")
    done = launch(folder, "--num-processes", "1", "again.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[:2] == ["notebook_accel: 1 CPU process", f"notebook_accel: settings from {file}"]
    assert launch(folder, "--num-processes", "1", "--max-restarts", "0", "again.py").returncode == 1


def in_a_terminal(folder: Path, typed: bytes, *command: str) -> tuple[int, str]:
    """Run a command that finds a terminal, in which somebody types; give its exit code and what it said."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, cwd=folder, env=variables(folder), stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        os.close(theirs)
        os.write(ours, typed)
        text, _ = process.communicate(timeout=60)
    os.close(ours)
    return process.returncode, text.decode()


def test_config_asks_in_a_terminal(folder: Path) -> None:
    code, text = in_a_terminal(folder, b"cpu\nmany\n3\nbf16\n", *CLI, "config")
    assert code == 0, text
    assert "num_processes must be a whole number, not 'many'" in text
    assert "-> 3 CPU processes, gloo, bf16" in text
    written = RunConfig.load(folder / "home" / "default_config.yaml")
    assert written == RunConfig(devices="cpu", num_processes=3, mixed_precision="bf16")


def test_questions_that_are_not_answered_leave_nothing(folder: Path) -> None:
    code, text = in_a_terminal(folder, b"cpu\n\x04", *CLI, "config")  # Ctrl-D
    assert code == 2, text
    assert "nothing was written" in text
    assert not (folder / "home").exists()


def test_config_without_a_terminal_says_what_to_do(folder: Path) -> None:
    done = run(folder, *CLI, "config")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--default" in done.stderr
    assert not (folder / "home").exists()


def test_test_gives_a_verdict_on_this_machine(folder: Path) -> None:
    done = run(folder, *CLI, "test", "--num-processes", "2", "--devices", "cpu")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines[0] == "ranks: 0 on cpu, 1 on cpu; mixed precision: no"
    assert [line.partition(":")[0] for line in lines[1:-1]] == ["ok"] * 5
    assert lines[-1] == "all checks passed"


@pytest.mark.slow
def test_test_fails_where_a_check_does(folder: Path) -> None:
    package = folder / "shadow" / "sitecustomize.py"
    package.parent.mkdir()
    package.write_text(  # a machine whose ranks do not learn what was asked
        "import os\nif 'RANK' in os.environ: os.environ['WORLD_SIZE'] = '1'; os.environ['RANK'] = '0'\n"
    )
    path = f"{package.parent}{os.pathsep}{ROOT}"
    done = run(folder, *CLI, "test", "--num-processes", "2", "--devices", "cpu", PYTHONPATH=path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: the world is the one launched; rank 0: Accelerator() has ('1', 'cpu')" in done.stdout
    assert "1 of 5 checks failed" in done.stdout
