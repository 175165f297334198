"""The leak police is itself tested: a police that catches nothing looks like a clean suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.leaks import MARK, in_use_elsewhere

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import tests.leaks
from tests.leaks import marked_run, no_leaks
tests.leaks.SETTLE_SECONDS = 0.3
"""

LEAKY = """
import os, signal, subprocess, sys, threading
kept, gate = [], threading.Event()

def test_clean(): pass

def test_child(): kept.append(subprocess.Popen(["sleep", "60"]))

def test_orphan(): subprocess.run(["sh", "-c", "setsid sleep 61 >/dev/null 2>&1 &"])

def test_thread(): threading.Thread(target=gate.wait, daemon=True).start()

def test_descriptor(): kept.append(os.open(os.devnull, os.O_RDONLY))

def test_memory_file(): kept.append(os.memfd_create("left"))

def test_shared_memory():
    with open(f"/dev/shm/leak-{os.getpid()}", "w"): pass

def test_variable(): os.environ["LEFT"] = "behind"

def test_folder(): os.chdir("/")

def test_handler(): signal.signal(signal.SIGUSR1, lambda *_: None)

def test_clean_again(): gate.set(); os.unlink(f"/dev/shm/leak-{os.getpid()}")
"""

EXPECTED = {
    "child": "process pid * sleep 60",
    "orphan": "process pid * sleep 61",
    "thread": "thread Thread-* (wait) (Thread)",
    "descriptor": "descriptor * -> /dev/null",
    "memory_file": "descriptor * -> /memfd:left (deleted)",
    "shared_memory": "shared memory /dev/shm/leak-*",
    "variable": "variable LEFT: None -> 'behind'",
    "folder": "working directory * -> /",
    "handler": "signal handler of SIGUSR1: *",
}


def test_every_kind_of_leak_fails_the_test_that_left_it(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(LEAKY)
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=len(EXPECTED) + 2, errors=len(EXPECTED))
    for name, message in EXPECTED.items():
        outcome.stdout.fnmatch_lines([f"*ERROR at teardown of test_{name} *", "the test left behind:", f"  {message}"])


def test_the_warm_helper_is_shut_down_before_the_count(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        CONFTEST
        + """
import subprocess, types
helper = types.ModuleType("notebook_accel.launch.forkserver")
helper.running = None
def shut_down():
    if helper.running: helper.running.kill(); helper.running.wait()
helper.shut_down = shut_down
sys.modules[helper.__name__] = helper
"""
    )
    pytester.makepyfile(
        """
        import subprocess, sys, time
        helper = sys.modules["notebook_accel.launch.forkserver"]

        def test_helper_alone(): helper.running = subprocess.Popen(["sleep", "60"])

        def test_helper_with_a_rank_left():
            helper.running = subprocess.Popen(["sh", "-c", "sleep 62 & wait"])
            time.sleep(0.2)
        """
    )
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    outcome.assert_outcomes(passed=2, errors=1)
    outcome.stdout.fnmatch_lines(["*ERROR at teardown of test_helper_with_a_rank_left *", "*sleep 62"])


def test_a_semaphore_of_another_process_is_not_the_tests():
    code = (
        "import multiprocessing, sys\n"
        "semaphore = multiprocessing.get_context('spawn').Semaphore()\n"
        "print(semaphore._semlock.name, flush=True)\n"
        "sys.stdin.read()\n"
    )
    others = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=others, text=True
    ) as process:
        assert process.stdout is not None
        name = "sem." + process.stdout.readline().strip().removeprefix("/")
        assert (Path("/dev/shm") / name).exists()
        assert in_use_elsewhere(name)
        process.communicate()
    assert in_use_elsewhere(name), "it is gone"
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        assert not in_use_elsewhere(Path(file.name).name)
