"""Runs that were stopped, killed or out of time go on from where they had saved, as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.kernels import Notebook
from tests.integration.test_launch import literal

TRAIN = """
import os, signal, torch
from notebook_accel import Accelerator, ProjectConfiguration, notebook_launcher

def train(folder, epochs=3, stop_at=None, die_at=None, ask=False):
    torch.manual_seed(3)
    project = ProjectConfiguration(project_dir=folder, automatic_checkpoint_naming=True, total_limit=2)
    accelerator = Accelerator(cpu=True, project_config=project)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    data = torch.utils.data.TensorDataset(torch.arange(16.0).unsqueeze(1))
    loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.001), loader)
    resumed, seen = accelerator.resume(), []
    while loader.epoch < epochs:
        for (x,) in loader:
            accelerator.backward(model(x).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            seen.append(x.flatten().tolist())
            if ask and len(seen) == 6:
                print("ready", flush=True)
                while not accelerator.should_stop: pass
            if accelerator.should_stop or len(seen) == stop_at:
                accelerator.save_state()
                return resumed, seen, None
            if len(seen) == die_at and not resumed:
                accelerator.save_state(block=False)
                accelerator.wait_for_checkpoint()
                if accelerator.is_main_process: os.kill(os.getpid(), signal.SIGKILL)
                while True: pass
    accelerator.end_training()
    return resumed, seen, [p.tolist() for p in accelerator.unwrap_model(model).parameters()]
"""


def test_a_run_that_was_stopped_goes_on_exactly(notebook: Notebook, tmp_path: Path) -> None:
    notebook.check(TRAIN)
    text = notebook.check(
        f"whole = list(notebook_launcher(train, ({str(tmp_path / 'whole')!r},), num_processes=2, seed=1))\n"
        f"arguments = ({str(tmp_path / 'stopped')!r},)\n"
        "run, asked = notebook_launcher(train, arguments, 2, seed=1, kwargs={'ask': True}, block=False), ''\n"
        "for part in run.output():\n"
        "    asked += part\n"
        "    if asked.count('ready') == 2: run.request_stop()\n"
        "first = list(run.result())\n"
        "rest = list(notebook_launcher(train, arguments, num_processes=2, seed=2, resume='auto'))\n"
        "print([(w[2] == r[2], w[1] == f[1] + r[1], f[0], r[0], len(f[1])) for w, f, r in zip(whole, first, rest)])"
    )
    assert literal(text.splitlines()[-1]) == [(True, True, False, True, 6)] * 2


def test_a_run_that_was_killed_goes_on_by_itself(notebook: Notebook, tmp_path: Path) -> None:
    notebook.check(TRAIN)
    text = notebook.check(
        f"whole = list(notebook_launcher(train, ({str(tmp_path / 'whole')!r},), num_processes=2, seed=1))\n"
        f"arguments = ({str(tmp_path / 'killed')!r},)\n"
        "result = notebook_launcher(train, arguments, 2, seed=1, max_restarts=1, kwargs={'die_at': 5})\n"
        "print([(w[2] == r[2], w[1][5:] == r[1], r[0]) for w, r in zip(whole, result)], len(result.earlier_failures))"
    )
    assert literal(f"({text.splitlines()[-1].replace('] ', '], ')})") == ([(True, True, True)] * 2, 1)


def test_without_resume_a_run_begins_anew(notebook: Notebook, tmp_path: Path) -> None:
    notebook.check(TRAIN)
    text = notebook.check(
        f"arguments = ({str(tmp_path)!r},)\n"
        "notebook_launcher(train, arguments, 1, kwargs={'stop_at': 2})\n"
        "print(notebook_launcher(train, arguments, 1, kwargs={'stop_at': 2}).value[0])"
    )
    assert text.splitlines()[-1] == "False"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint_0", "checkpoint_1"]


SCRIPT = """
import json, os, sys, warnings
warnings.simplefilter("error")
from notebook_accel import Accelerator
accelerator = Accelerator(cpu=True, project_dir=sys.argv[1])
steps = 0
while not accelerator.should_stop:
    steps += 1
    if steps == 2 and accelerator.is_main_process:
        os.write(1, b"listens\\n")
path = accelerator.save_state(os.path.join(sys.argv[1], "last"))
os.write(1, b"saved\\n")  # in one piece: several ranks write to one pipe
os._exit(0)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_script_that_is_told_to_terminate_saves(tmp_path: Path, ranks: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    python = [sys.executable, "-u"]
    torchrun = [*python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*(python if ranks == 1 else torchrun), str(script), str(tmp_path)]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.strip() == "listens":
                process.send_signal(signal.SIGTERM)  # torchrun passes it on to the ranks
    assert sum(line.startswith("saved") for line in lines) == ranks, lines
    assert json.loads((tmp_path / "last" / "manifest.json").read_text())["world_size"] == ranks
