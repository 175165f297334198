"""What runs on a system without Linux's calls, forced on Linux: another name, no memfd, pidfd or real-time signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.patience import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the other tests show it"),
]

# psutil and sysconfig are loaded first and keep Linux's ways; urllib asks for a module that only macOS has.
ANOTHER_SYSTEM = """
import os, signal, sys, sysconfig, types
import psutil
sysconfig.get_paths()
sys.platform = "darwin"
for module, name in ((os, "memfd_create"), (os, "pidfd_open"), (signal, "SIGRTMIN"), (signal, "SIGRTMAX")):
    if hasattr(module, name):
        delattr(module, name)
proxies = types.ModuleType("_scproxy")
proxies._get_proxy_settings = proxies._get_proxies = dict
sys.modules["_scproxy"] = proxies
"""

SCRIPT = """
import json, sys
import torch
from notebook_accel import NotAvailableError, RunTimedOut, notebook_launcher, share

data = torch.arange(100_000)
shared = share(data)

def train(x):
    import os, sys, torch.distributed as dist
    dist.init_process_group("gloo")
    total = torch.ones(3) * (dist.get_rank() + 1)
    dist.all_reduce(total)
    print("printed on", sys.platform)
    data[0] = 7
    return x, total.tolist(), int(shared.value.sum()), os.environ["OMP_NUM_THREADS"]

def wait():
    import os, time
    print("pid", os.getpid(), flush=True)
    time.sleep(600)

if sys.argv[1] == "run":
    run = notebook_launcher(train, (3,), 2, threads_per_rank=1, block=False)
    found = {"values": list(run.result()), "logs": run.logs(1), "how": run.plan.start_method, "first": int(data[0])}
    try:
        notebook_launcher(wait, num_processes=1, timeout_seconds=10)
    except RunTimedOut as error:
        found["place"] = error.places[0]
    try:
        notebook_launcher(wait, start_method="fork")
    except NotAvailableError as error:
        found["refused"] = error.what
    print("found", json.dumps(found))
else:
    notebook_launcher(wait, num_processes=2)
"""


@pytest.fixture
def start_script(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_SYSTEM)
    (tmp_path / "script.py").write_text(SCRIPT)
    # gloo's own default on macOS is an interface that Linux does not have
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**os.environ, "PYTHONPATH": search, "GLOO_SOCKET_IFNAME": "lo"}

    def start(what: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(tmp_path / "script.py"), what]
        return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


def test_the_same_function_runs_in_fresh_interpreters(start_script) -> None:
    said, _ = start_script("run").communicate(timeout=100)
    marked = [line for line in said.splitlines() if line.startswith("found ")]
    assert marked, said
    found = json.loads(marked[0].removeprefix("found "))
    assert found["how"] == "spawn"
    assert found["values"] == [[3, [3.0, 3.0, 3.0], 4999950000, "1"]] * 2
    assert "printed on darwin" in found["logs"]
    assert found["first"] == 0, "a rank's writes stay its own"
    assert "in wait (script.py" in found["place"]
    assert "needs Linux, this is darwin" in found["refused"]


def test_nothing_outlives_a_killed_kernel(start_script) -> None:
    script = start_script("wait")
    with script:
        said = ""
        while said.count("pid ") < 2:
            line = script.stdout.readline()
            assert line, said
            said += line
        started = psutil.Process(script.pid).children(recursive=True)
        script.kill()
    assert len(started) == 3, "a supervisor and two ranks"
    assert wait_until(lambda: not any(process.is_running() for process in started), 3), started
