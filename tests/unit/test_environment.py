from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from notebook_accel import environment
from notebook_accel.errors import ConfigError
from notebook_accel.world import World

NAMES = (
    "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_USE_AGENT_STORE "
    "TORCHELASTIC_RESTART_COUNT OMP_NUM_THREADS "
    "CUDA_VISIBLE_DEVICES ACCELERATE_USE_CPU ACCELERATE_MIXED_PRECISION"
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in NAMES.split():
        monkeypatch.delenv(name, raising=False)


def test_current_is_a_copy():
    environment.current()["LEFT"] = "behind"
    assert "LEFT" not in os.environ


def test_load_time_variables_are_those_that_libraries_read_while_loading(monkeypatch):
    before = environment.load_time_variables()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MY_OWN", "4")
    after = environment.load_time_variables()
    assert set(after) - set(before) == {("OMP_NUM_THREADS", "3")}
    assert list(after) == sorted(after)


def test_visible_devices_tell_empty_from_unset(monkeypatch):
    assert environment.visible_cuda_devices() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.visible_cuda_devices() == ""


@pytest.mark.parametrize(
    ("given", "threads"), [("4", 4), (" 2 ", 2), ("3,1", 3), ("", None), ("0", None), ("-1", None), ("many", None)]
)
def test_requested_threads_is_the_first_level_or_nothing(monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert environment.requested_threads() == threads


def test_replace_makes_the_environment_exactly_what_is_given():
    before = environment.current()
    try:
        environment.replace({"ONLY": "this"})
        assert dict(os.environ) == {"ONLY": "this"}
    finally:
        environment.replace(before)
    assert environment.current() == before


def test_patched_puts_everything_back_also_after_an_error():
    before = environment.current()

    def fail_inside():
        with environment.patched({"PATH": "elsewhere", "ADDED": "1"}):
            os.environ["ADDED_INSIDE"] = "2"
            raise KeyError(os.environ["PATH"], os.environ["ADDED"])

    with pytest.raises(KeyError) as caught:
        fail_inside()
    assert caught.value.args == ("elsewhere", "1")
    assert environment.current() == before


def test_no_world_without_rank_and_size(monkeypatch):
    assert environment.world_from_environment() is None
    monkeypatch.setenv("RANK", "0")
    assert environment.world_from_environment() is None


def test_the_world_is_read_back_as_it_was_written(monkeypatch):
    world = World(
        rank=3, world_size=4, local_rank=1, local_world_size=2, master_port=4321, agent_store=True, restart_count=2
    )
    for name, value in world.to_env().items():
        monkeypatch.setenv(name, value)
    assert environment.world_from_environment() == world
    assert environment.cpu_requested()


def test_a_machine_of_its_own_is_assumed_without_local_variables(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    world = environment.world_from_environment()
    assert (world.local_rank, world.local_world_size, world.master_port) == (1, 2, 0)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_world_that_makes_no_sense_is_refused(monkeypatch, name):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv(name, "first")
    with pytest.raises(ConfigError, match=name):
        environment.world_from_environment()


@pytest.mark.parametrize(
    ("value", "asked"), [("true", True), ("1", True), ("YES", True), ("false", False), ("", False)]
)
def test_cpu_is_used_where_accelerates_variable_says_so(monkeypatch, value, asked):
    assert not environment.cpu_requested()
    monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    assert environment.cpu_requested() is asked


def test_precision_is_no_where_unset_or_empty(monkeypatch):
    assert environment.precision_from_environment() == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "")
    assert environment.precision_from_environment() == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert environment.precision_from_environment() == "bf16"


@pytest.mark.parametrize(
    ("shell", "in_kernel"),
    [
        (None, False),
        (SimpleNamespace(), False),
        (SimpleNamespace(kernel=None), False),
        (SimpleNamespace(kernel=1), True),
    ],
    ids=["no shell", "terminal", "no kernel", "kernel"],
)
def test_a_kernel_is_known_by_its_shell(monkeypatch, shell, in_kernel):
    monkeypatch.setitem(sys.modules, "IPython.core.getipython", SimpleNamespace(get_ipython=lambda: shell))
    assert environment.in_notebook_kernel() is in_kernel


def test_without_ipython_there_is_no_kernel(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython.core.getipython", raising=False)
    assert environment.in_notebook_kernel() is False


@pytest.mark.parametrize(
    ("session", "user_ns", "path"),
    [
        ("work/a.ipynb", {"__vsc_ipynb_file__": "b.ipynb"}, "work/a.ipynb"),
        ("", {"__vsc_ipynb_file__": "b.ipynb"}, "b.ipynb"),
        ("", {"__vsc_ipynb_file__": 3}, None),
        ("", {}, None),
    ],
)
def test_the_notebooks_path_is_what_its_front_end_tells(monkeypatch, session, user_ns, path):
    monkeypatch.setenv("JPY_SESSION_NAME", session)
    shell = SimpleNamespace(user_ns=user_ns)
    monkeypatch.setitem(sys.modules, "IPython.core.getipython", SimpleNamespace(get_ipython=lambda: shell))
    assert environment.notebook_path() == path


def test_without_a_shell_there_is_no_notebook(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setitem(sys.modules, "IPython.core.getipython", SimpleNamespace(get_ipython=lambda: None))
    assert environment.notebook_path() is None


@pytest.mark.parametrize(("asked", "taken"), [("", "auto"), (" Widgets ", "widgets"), ("off", "off")])
def test_how_runs_are_shown_is_a_word(monkeypatch, asked, taken):
    monkeypatch.setenv("NOTEBOOK_ACCEL_UI", asked)
    assert environment.ui() == taken


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv("NOTEBOOK_ACCEL_UI", "gui")
    with pytest.raises(ConfigError, match="NOTEBOOK_ACCEL_UI='gui' is none of auto, widgets, html, text, off"):
        environment.ui()


@pytest.mark.parametrize(
    ("variables", "looks_on"),
    [
        ({}, False),
        ({"JPY_SESSION_NAME": "a.ipynb"}, True),
        ({"COLAB_RELEASE_TAG": "release"}, True),
        ({"VSCODE_PID": "1"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Batch", "JPY_SESSION_NAME": "a.ipynb"}, False),
    ],
)
def test_whether_somebody_looks_on(monkeypatch, variables, looks_on):
    for name in ("JPY_SESSION_NAME", "COLAB_RELEASE_TAG", "VSCODE_PID", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.has_front_end() is looks_on


@pytest.mark.parametrize(("said", "meant"), [("true", True), ("1", True), ("False", False), ("0", False), ("", None)])
def test_debug_mode_has_three_states(monkeypatch, said, meant):
    monkeypatch.setenv("ACCELERATE_DEBUG_MODE", said)
    assert environment.debug_requested() is meant
    monkeypatch.delenv("ACCELERATE_DEBUG_MODE")
    assert environment.debug_requested() is None
