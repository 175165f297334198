from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from notebook_accel.backends.base import Backend
from notebook_accel.core import runtime as runtime_module
from notebook_accel.core.runtime import Runtime, activate, current
from notebook_accel.errors import ConfigError, NotInWorkerError
from notebook_accel.world import World


@pytest.fixture
def empty_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module._SLOT, "runtime", None)
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def test_values_are_read_only():
    runtime = Runtime(World(rank=1, world_size=2), "bf16")
    assert (runtime.world.rank, runtime.mixed_precision) == (1, "bf16")
    for name in ("world", "mixed_precision", "backend"):
        with pytest.raises(AttributeError):
            setattr(runtime, name, None)


def test_backend_is_made_when_first_read_and_kept():
    runtime = Runtime(World())
    backend = runtime.backend
    assert isinstance(backend, Backend)
    assert runtime.backend is backend
    runtime.close()
    runtime.close()


def test_activate_restores_the_one_before():
    def fail(expected: Runtime) -> None:
        with activate(expected):
            assert current() is expected
            raise KeyError

    with activate(Runtime(World())) as outer:
        with pytest.raises(KeyError):
            fail(Runtime(World()))
        assert current() is outer


def test_a_script_gets_one_and_keeps_it(empty_slot: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    runtime = current(cpu=True)
    assert runtime.world == World()
    assert runtime.mixed_precision == "bf16"
    assert current() is runtime


def test_a_script_under_torchrun_reads_its_place(empty_slot: None, monkeypatch: pytest.MonkeyPatch):
    for name, value in World(rank=3, world_size=4, local_rank=1, local_world_size=2, master_port=5).to_env().items():
        monkeypatch.setenv(name, value)
    world = current().world
    assert (world.rank, world.world_size, world.local_rank, world.device_kind) == (3, 4, 1, "cpu")


def test_a_kernel_is_told_what_to_do(empty_slot: None, monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("IPython.core.getipython")
    module.get_ipython = lambda: SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython.core.getipython", module)
    with pytest.raises(NotInWorkerError, match="notebook_launcher"):
        current()
    with activate(Runtime(World())) as runtime:
        assert current() is runtime, "a function that is launched inline runs in the kernel"


def test_cpu_contradicting_the_run_is_refused():
    with activate(Runtime(World(device_kind="cuda"))), pytest.raises(ConfigError, match="computes on cuda"):
        current(cpu=True)


def test_a_function_that_has_raised_leaves_only_what_waits_for_nobody():
    runtime, done = Runtime(World()), []

    def broken() -> None:
        done.append("broken")
        raise OSError

    runtime.at_end(lambda: done.append("with the others"))
    runtime.at_any_end(lambda: done.append("alone"))
    runtime.at_any_end(broken)
    runtime.give_up()
    assert done == ["broken", "alone"]


# ---- two ranks: called by test_on_two_ranks.py


def backend_is_left_alone_until_it_is_asked_for() -> None:
    runtime = current()
    assert runtime.world.world_size == 2
    dist.init_process_group("gloo")
    group = dist.group.WORLD
    backend = runtime.backend
    assert dist.group.WORLD is group, "the user's group is used"
    assert backend.gather_object(backend.world.rank) == [0, 1]
    runtime.close()
    assert dist.is_initialized(), "the user's group is not ours to destroy"
    strangers = Runtime(World(rank=dist.get_rank(), world_size=3))
    with pytest.raises(ConfigError, match=r"of 3 is rank . of 2"):
        _ = strangers.backend
    alone = Runtime(World())
    with pytest.raises(ConfigError, match="alone in its run"):
        _ = alone.backend
    dist.destroy_process_group()


def group_of_our_own_is_destroyed_and_made_again() -> None:
    runtime = current()
    for _ in range(20):  # a group that found the addresses of the one before would hang
        assert torch.equal(runtime.backend.all_gather(torch.tensor(runtime.world.rank)), torch.tensor([0, 1]))
        assert dist.is_initialized()
        runtime.close()
        assert not dist.is_initialized()
