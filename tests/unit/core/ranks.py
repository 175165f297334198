"""Run functions of a test file on real ranks, started by torchrun."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

SCRIPT = """\
import importlib.util, os, pickle, sys, traceback

spec = importlib.util.spec_from_file_location("bodies", {file!r})
bodies = importlib.util.module_from_spec(spec)
sys.modules["bodies"] = bodies
spec.loader.exec_module(bodies)
results = {{}}
for name in {names!r}:
    try:
        results[name] = getattr(bodies, name)()
    except BaseException:
        print(f"rank {{os.environ['RANK']}} failed in {{name}}:", traceback.format_exc(), sep="\\n", flush=True)
        raise
with open(os.path.join({folder!r}, f"rank{{os.environ['RANK']}}.pickle"), "wb") as file:
    pickle.dump(results, file)
"""


def run_on_ranks(
    folder: Path, *functions: Callable[[], Any], ranks: int = 2, timeout_seconds: float = 120
) -> list[dict[str, Any]]:
    """Call ``functions`` one after the other on CPU ranks; give what they returned by rank and name."""
    script = folder / "script.py"
    names = [function.__name__ for function in functions]
    file = functions[0].__code__.co_filename
    script.write_text(SCRIPT.format(file=file, names=names, folder=str(folder)))
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nkilled after {timeout_seconds} seconds"
    assert process.returncode == 0, output
    return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(ranks)]
