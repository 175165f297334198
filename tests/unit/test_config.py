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
        ({"start_method": "fork"}, {"start_method": "fork"}),
        ({"start_method": "spawn"}, {"start_method": "spawn"}),
        ({"by_value": "json"}, {"by_value": ("json",)}),
        ({"by_value": [dataclasses, "a.b"]}, {"by_value": ("dataclasses", "a.b")}),
        ({"returns": "rank0"}, {"returns": "rank0"}),
        ({"timeout_seconds": 0.5}, {"timeout_seconds": 0.5}),
        ({}, {"hang_timeout_seconds": 120, "hang_action": "report"}),
        ({"hang_timeout_seconds": None}, {"hang_timeout_seconds": None}),
        ({"hang_timeout_seconds": 0, "hang_action": "stop"}, {"hang_timeout_seconds": 0, "hang_action": "stop"}),
        ({"max_restarts": 3, "run_id": "a"}, {"max_restarts": 3, "run_id": "a"}),
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
        {"grace_seconds": None},
        {"timeout_seconds": 0},
        {"hang_timeout_seconds": -1},
        {"hang_timeout_seconds": "120"},
        {"hang_timeout_seconds": True},
        {"hang_action": "kill"},
        {"hang_action": None},
        {"timeout_seconds": -1},
        {"timeout_seconds": float("inf")},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": True},
        {"timeout_seconds": "60"},
        {"max_restarts": -1},
        {"max_restarts": 1.0},
        {"max_restarts": True},
        {"returns": "first"},
        {"returns": None},
        {"returns": 0},
        {"by_value": 1},
        {"by_value": ("not a module",)},
        {"by_value": (print,)},
    ],
    ids=str,
)
def test_wrong_values_are_refused_by_name_with_advice(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError) as caught:
        RunConfig(**wrong)
    assert name in caught.value.what
    assert caught.value.hint


def test_known_values_that_are_not_built_are_refused_as_such():
    with pytest.raises(NotAvailableError, match="not built yet"):
        RunConfig(mixed_precision="fp8")


@pytest.mark.parametrize(
    "of_one_machine",
    [
        {},
        {"master_addr": "localhost"},
        {"rdzv_backend": "c10d"},
        {"rdzv_backend": ""},
        {"rdzv_backend": None},
        {"rdzv_endpoint": "localhost:29500"},
        {"rdzv_endpoint": "127.0.0.1:0"},
        {"rdzv_conf": {}},
        {"rdzv_conf": {"timeout": 3, "join_timeout": 600, "last_call_timeout": 30, "close_timeout": 30}},
        {"rdzv_conf": {"read_timeout": 60, "keep_alive_interval": 5}},
        {"monitor_interval": 5},
    ],
    ids=str,
)
def test_what_holds_for_one_machine_is_accepted(of_one_machine):
    arguments = AccelerateArguments(**of_one_machine)
    assert {name: getattr(arguments, name) for name in of_one_machine} == of_one_machine


@pytest.mark.parametrize(
    "distributed",
    [
        {"num_nodes": 2},
        {"num_nodes": 0},
        {"node_rank": 1},
        {"master_addr": "10.0.0.1"},
        {"rdzv_backend": "etcd"},
        {"rdzv_endpoint": "10.0.0.1:29500"},
        {"rdzv_endpoint": "localhost"},
        {"rdzv_conf": {"rank": 1}},
        {"rdzv_conf": {"timeout": 3, "is_host": True}},
    ],
    ids=str,
)
def test_what_would_be_ignored_is_refused(distributed):
    with pytest.raises(NotAvailableError, match="cannot be honoured") as caught:
        AccelerateArguments(**distributed)
    assert next(iter(distributed)) in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "soon", None, True])
def test_an_interval_is_a_number_of_seconds(seconds):
    with pytest.raises(ConfigError, match="monitor_interval must be a number of seconds"):
        AccelerateArguments(monitor_interval=seconds)


@pytest.mark.parametrize(
    ("endpoint", "use_port", "port"),
    [
        ("", None, 0),
        ("", "29500", 29500),
        ("localhost:29501", None, 29501),
        ("127.0.0.1:0", None, 0),
        ("localhost:29501", "29501", 29501),
    ],
)
def test_the_port_is_use_ports_or_the_endpoints(endpoint, use_port, port):
    assert AccelerateArguments(rdzv_endpoint=endpoint).port(use_port) == port


def test_two_different_ports_are_refused():
    with pytest.raises(ConfigError, match="use_port=29502 and rdzv_endpoint='localhost:29501' name different ports"):
        AccelerateArguments(rdzv_endpoint="localhost:29501").port(29502)


def test_an_endpoint_whose_port_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="must be a port number, not 'x'"):
        AccelerateArguments(rdzv_endpoint="localhost:x").port(None)


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


EVERYTHING = RunConfig(
    num_processes=2,
    mixed_precision="bf16",
    start_method="spawn",
    devices=(1, 3),
    seed=7,
    log_prefix="[${rank}] ",
    timeout_seconds=60.5,
    hang_timeout_seconds=None,
    by_value=("a.b",),
    run_id="Größe 1",
)


@pytest.mark.parametrize("config", [RunConfig(), EVERYTHING], ids=["defaults", "everything"])
def test_a_config_is_saved_and_loaded(tmp_path, config):
    config.save(tmp_path / "run.yaml")
    assert RunConfig.load(tmp_path / "run.yaml") == config
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RunConfig()),
        ("num_processes: 4\n", RunConfig(num_processes=4)),
        ('{"devices": [0, 2], "seed": 1}', RunConfig(devices=(0, 2), seed=1)),
        ("mixed_precision: 'no'\n", RunConfig()),
        ("mixed_precision: no\n", RunConfig()),
    ],
)
def test_a_file_may_leave_things_out_and_may_be_json(tmp_path, text, expected):
    (tmp_path / "run.yaml").write_text(text)
    assert RunConfig.load(tmp_path / "run.yaml") == expected


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("num_procesess: 4\n", "sets 'num_procesess', which is no part of a config", "did you mean num_processes"),
        ("zzz: 4\n", "sets 'zzz'", "the names are num_processes, "),
        ("- 1\n", "holds no names with values", "num_processes: 2"),
        ("a: [\n", "cannot be read as YAML", "save"),
        ("\x00", "cannot be read as YAML", "save"),
        ("num_processes: many\n", "num_processes must be a whole number", "pass an int"),
        ("mixed_precision: half\n", "unknown mixed_precision 'half'", "'no'"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, what, hint):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(tmp_path / "run.yaml")
    assert what in caught.value.what
    assert hint in caught.value.hint


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nothing.yaml cannot be read"):
        RunConfig.load(tmp_path / "nothing.yaml")
