"""What can be seen of torch_tpu without a TPU: what is said at a launch and, where it is installed, what it sets."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from notebook_accel import notebook_launcher
from notebook_accel.config import RunConfig
from notebook_accel.errors import LaunchError, NotAvailableError
from notebook_accel.launch.job import Call
from notebook_accel.launch.plan import make_plan
from notebook_accel.launch.start import _SPAWNERS_OF_DEVICES
from notebook_accel.launch.torch_tpu import TorchTpuSpawner
from notebook_accel.launch.tpu_runtime import TorchTpu
from notebook_accel.launch.xla import XlaSpawner
from tests.xla.chips import machine

installed = pytest.mark.skipif(importlib.util.find_spec("torch_tpu") is None, reason="torch_tpu is not installed")

# A machine with chips, for the supervisor. The ranks see none: to seed torch there would start the TPU.
SITE = """
import importlib.abc, importlib.machinery, os, sys

class Patched(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch_tpu._internal.utils.hardware" or "RANK" in os.environ:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def execute_and_patch(module):
            execute(module)
            module._scan_pci_tpus = lambda: (4, module._{generation}_TOPOLOGY)

        spec.loader.exec_module = execute_and_patch
        return spec

sys.meta_path.insert(0, Patched())
"""

TOPOLOGIES = """
import json
from torch_tpu._internal.utils import hardware
found = {}
for identifier, topologies in hardware._TOPOLOGY_BY_TPU_PCI_DEVICE_ID.items():
    found[hardware._PCI_DEVICE_ID_TO_NAME[identifier]] = []
    hardware._scan_pci_tpus = lambda: (8, topologies)
    for number in range(1, 17):
        try:
            assert hardware.get_tpu_topology(number)
        except RuntimeError:
            continue
        found[hardware._PCI_DEVICE_ID_TO_NAME[identifier]].append(number)
print(json.dumps(found))
"""


def variables_of_torch_tpu() -> tuple[dict[str, str], dict[str, str]]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCH_DEVICE_BACKEND_AUTOLOAD")
    mine = {name: os.environ[name] for name in names}
    return mine, {name: value for name, value in os.environ.items() if name.startswith("TORCH_TPU_")}


def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: str) -> list[Any]:
    (tmp_path / "sitecustomize.py").write_text(SITE.replace("{generation}", generation))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_PROCESS_ADDRESSES", "local")
    plan = make_plan(RunConfig(num_processes=2), machine(4, "TPU v4", "tpu"))
    run = TorchTpuSpawner().start(plan, Call(variables_of_torch_tpu))
    assert "torch_tpu, which is experimental" in run.start_notices[0]
    assert "TPU_PROCESS_ADDRESSES='local'" in run.start_notices[1]
    return list(run.result())


def test_the_kind_of_the_chips_chooses_who_starts_the_ranks():
    assert (_SPAWNERS_OF_DEVICES["xla"], _SPAWNERS_OF_DEVICES["tpu"]) == (XlaSpawner, TorchTpuSpawner)


@pytest.mark.skipif(importlib.util.find_spec("torch_xla") is not None, reason="torch_xla is installed")
def test_chips_without_anything_to_drive_them_name_both_installations():
    with pytest.raises(NotAvailableError, match="neither torch_xla nor torch_tpu") as caught:
        XlaSpawner().pack(make_plan(RunConfig(), machine(4)), Call(variables_of_torch_tpu))
    assert 'pip install "torch_xla[tpu]"' in caught.value.hint
    assert "pip install torch_tpu (experimental here)" in caught.value.hint


def test_several_machines_are_refused_before_anything_is_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "host-0,host-1")
    with pytest.raises(NotAvailableError, match="2 machines"):
        TorchTpuSpawner().pack(make_plan(RunConfig(), machine(4, kind="tpu")), Call(variables_of_torch_tpu))


@installed
def test_the_numbers_of_processes_are_torch_tpus_own():
    command = [sys.executable, "-c", TOPOLOGIES]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = {name: tuple(numbers) for name, numbers in json.loads(done.stdout.splitlines()[-1]).items()}
    assert found == TorchTpu.COUNTS


@installed
@pytest.mark.slow
def test_every_rank_has_the_environment_that_torch_tpu_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (first, shared), (second, also) = launch(tmp_path, monkeypatch, "V4")
    for rank, found in enumerate((first, second)):
        assert found == {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
        }
    assert shared == also
    assert shared["TORCH_TPU_TOPOLOGY"] == "1,2,1"
    addresses = shared["TORCH_TPU_SLICEBUILDER_ADDRESSES"].split(",")
    assert len(set(addresses)) == 2
    assert all(address.startswith("localhost:") for address in addresses)
    assert not [name for name in os.environ if name.startswith("TORCH_TPU_")], "the kernel's own stays as it was"
    assert "torch_tpu" not in sys.modules


@installed
@pytest.mark.slow
def test_what_torch_tpu_refuses_reaches_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(LaunchError, match="No TPU topology found for count: 2"):
        launch(tmp_path, monkeypatch, "V5E")


def has_torch_tpu() -> bool:
    import torch

    return "torch_tpu" in sys.modules or hasattr(torch, "tpu")


@installed
@pytest.mark.slow
def test_ranks_that_are_forked_are_without_it() -> None:
    assert notebook_launcher(has_torch_tpu, num_processes=1, devices="cpu", start_method="forkserver").value is False
