"""Run functions of test files on real ranks, started by torchrun."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[3]

SCRIPT = """\
import importlib, os, pickle, traceback, warnings

warnings.simplefilter("error")
results = {{}}
for module, name in {names!r}:
    try:
        results[name] = getattr(importlib.import_module(module), name)()
    except BaseException:
        print(f"rank {{os.environ['RANK']}} failed in {{name}}:", traceback.format_exc(), sep="\\n", flush=True)
        raise
with open(os.path.join({folder!r}, f"rank{{os.environ['RANK']}}.pickle"), "wb") as file:
    pickle.dump(results, file)
# torch ends some processes that have a gloo group by SIGABRT when they exit, also where nothing else was done.
os._exit(0)
"""


def run_on_ranks(
    folder: Path, *functions: Callable[[], Any], ranks: int = 2, timeout_seconds: float = 60
) -> list[dict[str, Any]]:
    """Call ``functions`` one after the other on CPU ranks; give what they returned by rank and name."""
    script = folder / "script.py"
    files = [Path(function.__code__.co_filename).relative_to(ROOT).with_suffix("") for function in functions]
    modules = [".".join(file.parts) for file in files]
    names = [(module, function.__name__) for module, function in zip(modules, functions, strict=True)]
    script.write_text(SCRIPT.format(names=names, folder=str(folder)))
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            for started in (*psutil.Process(process.pid).children(recursive=True), process):
                started.kill()  # ranks live in sessions of their own, and hold the pipe open
            output, _ = process.communicate()
            output += f"\nkilled after {timeout_seconds} seconds"
    assert process.returncode == 0, output
    return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(ranks)]
