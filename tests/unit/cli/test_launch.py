from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest

from notebook_accel import environment
from notebook_accel.cli import launch as module
from notebook_accel.cli.launch import Target, launch, plan_script, torchrun_arguments, variables
from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.hardware.inventory import Inventory
from notebook_accel.launch.plan import make_plan

TARGET = Target("train.py", ("--lr", "1"))


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def machine(monkeypatch: pytest.MonkeyPatch, inventory: Inventory) -> None:
    monkeypatch.setattr(module, "probe", lambda: inventory)


def test_a_cpu_run_says_so_to_the_script() -> None:
    given = variables(make_plan(RunConfig(num_processes=2, mixed_precision="bf16"), Inventory.fake()))
    assert given["ACCELERATE_USE_CPU"] == "true"
    assert given["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert (given["CUDA_VISIBLE_DEVICES"], given["OMP_NUM_THREADS"]) == ("", "2")
    assert given["GLOO_SOCKET_IFNAME"] in {"lo", "lo0"}


def test_a_gpu_run_shows_the_chosen_gpus_whatever_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    given = variables(make_plan(RunConfig(devices=(1, 3)), Inventory.fake(gpus=4)))
    assert (given["CUDA_VISIBLE_DEVICES"], given["ACCELERATE_USE_CPU"]) == ("1,3", "false")


def test_an_interface_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    given = variables(make_plan(RunConfig(), Inventory.fake()))
    assert "GLOO_SOCKET_IFNAME" not in given
    assert "NCCL_SOCKET_IFNAME" in given


@pytest.mark.parametrize(
    ("config", "has", "has_not"),
    [
        (RunConfig(num_processes=2), ["--standalone", "--nproc-per-node=2", "--max-restarts=0"], ["--tee=3"]),
        (RunConfig(port=2000), ["--master-port=2000"], ["--standalone"]),
        (RunConfig(run_id="a", max_restarts=2), ["--rdzv-id=a", "--max-restarts=2"], ["--standalone"]),
        (RunConfig(log_prefix="[${rank}] "), ["--tee=3"], []),
    ],
)
def test_torchs_launcher_is_told(config: RunConfig, has: list[str], has_not: list[str]) -> None:
    words = torchrun_arguments(make_plan(config, Inventory.fake()), TARGET, "folder")
    assert set(has) <= set(words)
    assert not set(has_not) & set(words)
    assert words[-3:] == ["train.py", "--lr", "1"]


def test_a_module_is_run_as_one() -> None:
    words = torchrun_arguments(make_plan(RunConfig(), Inventory.fake()), Target("pkg.mod", (), is_module=True), "f")
    assert words[-2:] == ["-m", "pkg.mod"]


def test_two_processes_on_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Inventory.fake(gpus=1))
    with pytest.raises(ConfigError, match="num_processes=2, but there is 1 device"):
        plan_script(RunConfig(num_processes=2))
    assert plan_script(RunConfig(num_processes=2, devices="cpu")).world_size == 2


def test_a_tpu_is_refused_and_the_cpu_beside_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Inventory.fake(tpus=4))
    with pytest.raises(NotAvailableError, match="notebook_launcher"):
        plan_script(RunConfig())
    assert plan_script(RunConfig(devices="cpu")).device_kind == "cpu"


@pytest.mark.parametrize("target", [Target("missing.py"), Target("no_such_module.part", is_module=True)])
def test_what_does_not_exist_is_refused(target: Target) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        launch(RunConfig(), target, [])


def test_a_script_a_folder_with_a_main_and_a_module_here_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").touch()
    Path("folder").mkdir()
    with pytest.raises(ConfigError):
        Target("folder").check()
    Path("folder", "__main__.py").touch()
    Target("script.py").check()
    Target("folder").check()
    Target("script", is_module=True).check()


def test_a_port_in_use_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.py").touch()
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            launch(RunConfig(port=port), Target("script.py"), [])


def test_a_launcher_that_does_not_listen_is_ended_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    deaf = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"  # as if somebody pressed Ctrl-C
        "signal.pause()"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    launcher = module._Launcher([sys.executable, "-c", deaf], environment.current())
    assert launcher.wait(None) == 128 + signal.SIGINT
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_a_launcher_that_had_its_time_is_told_and_then_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    launcher = module._Launcher([sys.executable, "-c", deaf], environment.current())
    assert launcher.wait(1.0) == module.EXIT_OF_TIMEOUT
