from __future__ import annotations

import psutil
import pytest

from notebook_accel import ConfigError, NotAvailableError, PayloadError, notebook_launcher
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch import forkserver, notebook, start


def fine():
    return 1


@pytest.fixture
def nothing_started():
    forkserver.shut_down()
    before = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == before, "a wrong argument must not start a process"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"function": 3}, "must be a function"),
        ({"function": fine()}, "without calling it"),
        ({"args": [1]}, "args must be a tuple"),
        ({"args": 1}, r"args=\(value,\)"),
        ({"kwargs": {1: 2}}, "kwargs"),
        ({"num_processes": 0}, "num_processes must be 1 or more, not 0"),
        ({"num_processes": -1}, "num_processes must be 1 or more, not -1"),
        ({"num_processes": "two"}, "num_processes must be a whole number, not 'two'"),
        ({"num_processes": True}, "num_processes must be a whole number"),
        ({"num_processes": 2.0}, "num_processes must be a whole number"),
        ({"mixed_precision": "foo"}, "unknown mixed_precision 'foo'"),
        ({"mixed_precision": None}, "unknown mixed_precision None"),
        ({"start_method": "teleport"}, "unknown start_method 'teleport'"),
        ({"start_method": "inline", "num_processes": 2}, "one rank"),
        ({"start_method": "inline", "preload": "math"}, "preload has no meaning"),
        ({"start_method": "inline", "devices": [1]}, "GPU"),
        ({"devices": "npu"}, "unknown devices 'npu'"),
        ({"devices": [0, 0]}, "twice"),
        ({"devices": []}, "devices must name devices"),
        ({"devices": ["0"]}, "no GPU number"),
        ({"devices": "cuda"}, "this machine has the CPU only"),
        ({"devices": [0]}, "no GPU"),
        ({"preload": "not a module"}, "preload must be module names"),
        ({"preload": 3}, "preload must be module names"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"threads_per_rank": 0}, "threads_per_rank must be between 1 and 4096"),
        ({"use_port": "x"}, "use_port must be a port number"),
        ({"use_port": 70000}, "port must be between"),
        ({"monitor_interval": 0}, "monitor_interval must be a number of seconds, not 0"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number of seconds, not 0"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"timeout_seconds": "1"}, "timeout_seconds"),
        ({"hang_timeout_seconds": -1}, "hang_timeout_seconds must be a number of seconds, not -1"),
        ({"hang_action": "kill"}, "unknown hang_action 'kill'"),
        ({"hang_action": "stop", "start_method": "inline"}, 'hang_action="stop" cannot end a function'),
        ({"timeout_seconds": 1, "start_method": "inline"}, "timeout_seconds cannot end a function"),
        ({"block": False, "start_method": "inline"}, "block=False has no meaning"),
        ({"returns": "rank1"}, "unknown returns 'rank1'"),
        ({"max_restarts": -1}, "max_restarts must be 0 or more"),
        ({"by_value": 3}, "by_value must be module names"),
        ({"by_value": ["no_such_module"]}, "by_value names 'no_such_module', which is not imported"),
        ({"preload": "math", "start_method": "spawn"}, "preload has no meaning"),
        ({"rdzv_endpoint": "localhost:x"}, "use_port must be a port number"),
        ({"rdzv_endpoint": "localhost:29500", "use_port": 29501}, "name different ports"),
        ({"log_line_prefix_template": 3}, "log_prefix must be a string"),
    ],
)
def test_bad_input(monkeypatch: pytest.MonkeyPatch, nothing_started: None, arguments: dict, words: str):
    monkeypatch.setattr(start, "probe", Inventory.fake)
    with pytest.raises(ConfigError, match=words) as caught:
        notebook_launcher(**{"function": fine, **arguments})
    assert caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        {"mixed_precision": "fp8"},
        {"master_addr": "10.0.0.1"},
        {"node_rank": 1},
        {"num_nodes": 2},
        {"rdzv_backend": "etcd"},
        {"rdzv_endpoint": "host:29400"},
        {"rdzv_conf": {"no such": 1}},
    ],
)
def test_what_is_not_built_is_refused_with_the_reason(nothing_started: None, arguments: dict):
    with pytest.raises(NotAvailableError, match=next(iter(arguments))):
        notebook_launcher(fine, **arguments)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch, nothing_started: None):
    monkeypatch.setattr(start, "probe", lambda: Inventory.fake(gpus=2))
    with pytest.raises(ConfigError, match="num_processes=3, but there are 2 devices"):
        notebook_launcher(fine, num_processes=3)
    with pytest.raises(ConfigError, match=r"names \[5\]"):
        notebook_launcher(fine, devices=(0, 5))


def test_what_cannot_travel_starts_nothing(nothing_started: None):
    with pytest.raises(PayloadError, match=r"args\[1\] \(a generator\)"):
        notebook_launcher(fine, args=(1, (x for x in ())), num_processes=2, devices="cpu")


def test_accelerates_defaults_are_accepted(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    result = notebook_launcher(
        fine, (), 1, "no", None, "127.0.0.1", 0, 1, "static", "", None, "none", 0, 0.1, None, devices="cpu"
    )
    assert result.value == 1
    assert capsys.readouterr().out == "notebook_accel: 1 CPU process\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_processes": "two"},
        {"num_processes": 3, "devices": "cuda"},
        {"kwargs": [("a", 1)]},
        {"kwargs": "a"},
        {"use_port": -1},
        {"use_port": 29500.5},
        {"use_port": True},
        {"monitor_interval": -0.1},
        {"monitor_interval": "often"},
        {"master_addr": None},
        {"node_rank": -1},
        {"num_nodes": 0},
        {"rdzv_endpoint": 3},
        {"rdzv_id": 4711},
        {"rdzv_id": "a\0b"},
        {"rdzv_conf": 5},
        {"rdzv_backend": []},
        {"max_restarts": None},
        {"timeout_seconds": 1e10},
        {"block": 1},
        {"block": None},
        {"monitor_interval": float("nan")},
        {"seed": 2**64},
    ],
    ids=str,
)
def test_more_that_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, nothing_started: None, arguments: dict
):
    monkeypatch.setattr(start, "probe", lambda: Inventory.fake(gpus=2))
    with pytest.raises(ConfigError):
        notebook_launcher(fine, **{"start_method": "inline", "num_processes": 1, "devices": "cpu", **arguments})
    assert forkserver._keeper._zygote is None


def test_a_run_here_says_what_runs_and_gives_the_value(nothing_started: None, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("torch")
    result = notebook_launcher(lambda a, b: a + b, (1,), kwargs={"b": 2}, start_method="inline", devices="cpu")
    assert result.value == 3
    assert capsys.readouterr().out == "notebook_accel: 1 CPU process, in this process\n"


def test_a_rehearsal_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[str, tuple[object, ...]]] = []
    monkeypatch.setattr(start, "probe", lambda: Inventory.fake(gpus=2))
    monkeypatch.setattr(notebook, "run_in_cell", lambda c, call: seen.append((c.num_processes, c.devices, call.args)))
    notebook.debug_launcher(fine, (1,), 3)
    notebook.debug_launcher(fine)
    assert seen == [(3, "cpu", (1,)), (2, "cpu", ())]
