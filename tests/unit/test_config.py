from __future__ import annotations

import dataclasses
import inspect

import pytest

from notebook_accel.config import AccelerateArguments, RunConfig, check_call, checked_port
from notebook_accel.errors import AccelError, ConfigError, NotAvailableError


def test_the_defaults_leave_every_choice_to_the_machine():
    config = RunConfig()
    assert (config.num_processes, config.start_method, config.devices) == (None, None, "auto")
    assert (config.mixed_precision, config.seed, config.threads_per_rank, config.port) == ("no", None, None, 0)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1


def test_every_field_is_documented():
    documented = inspect.getdoc(RunConfig)
    assert all(f"\n    {field.name}: " in documented for field in dataclasses.fields(RunConfig))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"devices": [1, 3]}, {"devices": (1, 3)}),
        ({"devices": "cuda"}, {"devices": "cuda"}),
        ({"preload": "sklearn"}, {"preload": ("sklearn",)}),
        ({"preload": ["a.b", "c"]}, {"preload": ("a.b", "c")}),
        ({"grace_seconds": 0}, {"grace_seconds": 0}),
        ({"port": 65535, "seed": 0}, {"port": 65535, "seed": 0}),
    ],
)
def test_values_are_taken_and_made_immutable(given, kept):
    config = RunConfig(**given)
    assert {name: getattr(config, name) for name in kept} == kept
    hash(config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_processes": 0},
        {"num_processes": -1},
        {"num_processes": "2"},
        {"num_processes": 2.0},
        {"num_processes": True},
        {"threads_per_rank": 0},
        {"seed": -1},
        {"port": 65536},
        {"port": -1},
        {"mixed_precision": "half"},
        {"mixed_precision": None},
        {"start_method": "thread"},
        {"devices": "gpu"},
        {"devices": ()},
        {"devices": 0},
        {"devices": (0, 0)},
        {"devices": (-1,)},
        {"devices": (True,)},
        {"devices": ("cuda:0",)},
        {"preload": ("not a module",)},
        {"preload": (1,)},
        {"preload": 1},
        {"log_prefix": 3},
        {"grace_seconds": -1},
        {"grace_seconds": float("inf")},
        {"grace_seconds": float("nan")},
        {"grace_seconds": "soon"},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name_with_advice(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError) as caught:
        RunConfig(**wrong)
    assert name in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize(
    "planned",
    [{"mixed_precision": "fp16"}, {"mixed_precision": "fp8"}, {"start_method": "fork"}, {"start_method": "spawn"}],
    ids=str,
)
def test_known_values_that_are_not_built_are_refused_as_such(planned):
    with pytest.raises(NotAvailableError, match="not built yet"):
        RunConfig(**planned)


def test_accelerates_single_machine_arguments_are_accepted_at_their_defaults():
    AccelerateArguments()
    AccelerateArguments(master_addr="localhost", rdzv_conf={}, rdzv_backend="")


@pytest.mark.parametrize(
    "distributed",
    [
        {"num_nodes": 2},
        {"node_rank": 1},
        {"master_addr": "10.0.0.1"},
        {"rdzv_conf": {"timeout": 3}},
        {"max_restarts": 1},
    ],
    ids=str,
)
def test_what_would_be_ignored_is_refused(distributed):
    with pytest.raises(NotAvailableError, match="cannot be honoured") as caught:
        AccelerateArguments(**distributed)
    assert next(iter(distributed)) in caught.value.what


@pytest.mark.parametrize(("use_port", "port"), [(None, 0), ("29500", 29500), (29500, 29500)])
def test_accelerates_port_is_a_string(use_port, port):
    assert checked_port(use_port) == port


def test_a_port_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="use_port"):
        checked_port("http")


def test_a_call_that_can_be_made_passes():
    check_call(print, (), None)
    check_call(print, (1,), {"end": ""})


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        ((3, (), None), "without calling it"),
        ((print, 3, None), "the comma makes the tuple"),
        ((print, [1], None), "the comma makes the tuple"),
        ((print, (), [1]), "for example"),
        ((print, (), {1: 2}), "for example"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused(call, advice):
    with pytest.raises(AccelError) as caught:
        check_call(*call)
    assert advice in caught.value.hint
