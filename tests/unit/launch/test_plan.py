from __future__ import annotations

import pytest

from notebook_accel.config import RunConfig
from notebook_accel.errors import ConfigError, NotAvailableError
from notebook_accel.hardware.inventory import Device, Inventory
from notebook_accel.launch.plan import default_start_method, make_plan
from tests.xla.chips import machine as chips_machine


@pytest.mark.parametrize(
    ("config", "machine", "text", "size"),
    [
        ({}, {"cpu_cores": 1}, "1 CPU process", 1),
        ({}, {"cpu_cores": 64}, "2 CPU processes, gloo", 2),
        ({"num_processes": 4}, {"cpu_cores": 2}, "4 CPU processes, gloo", 4),
        ({}, {"gpus": 4}, "4 GPU processes, nccl (Made-up GPU)", 4),
        ({"num_processes": 2}, {"gpus": 4}, "2 GPU processes, nccl (Made-up GPU)", 2),
        ({"mixed_precision": "bf16", "devices": (1, 3)}, {"gpus": 4}, "2 GPU processes, nccl, bf16 (Made-up GPU)", 2),
        ({"devices": "cpu", "num_processes": 8}, {"gpus": 4}, "8 CPU processes, gloo", 8),
        ({"start_method": "inline"}, {"gpus": 4}, "1 GPU process, in this process (Made-up GPU)", 1),
    ],
)
def test_what_is_chosen(config: dict, machine: dict, text: str, size: int):
    plan = make_plan(RunConfig(**config), Inventory.fake(**machine))
    assert (str(plan), plan.world_size) == (text, size)


def test_ranks_see_the_devices_that_were_named_and_no_other():
    assert make_plan(RunConfig(devices=(3, 1)), Inventory.fake(gpus=4)).environ["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert make_plan(RunConfig(devices="cpu"), Inventory.fake(gpus=4)).environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("asked", "requested", "cores", "ranks", "threads"),
    [(None, None, 8, 2, 4), (None, None, 2, 4, 1), (None, 6, 8, 2, 6), (3, 6, 8, 2, 3)],
)
def test_threads_per_rank(asked: int | None, requested: int | None, cores: int, ranks: int, threads: int):
    config = RunConfig(num_processes=ranks, threads_per_rank=asked)
    plan = make_plan(config, Inventory.fake(cpu_cores=cores), requested)
    assert plan.threads_per_rank == threads
    assert plan.environ["OMP_NUM_THREADS"] == str(threads)


def test_loopback_is_a_default_that_the_user_may_change():
    plan = make_plan(RunConfig(num_processes=2), Inventory.fake())
    assert plan.defaults["GLOO_SOCKET_IFNAME"] == plan.defaults["NCCL_SOCKET_IFNAME"]
    assert "GLOO_SOCKET_IFNAME" not in plan.environ


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_other_systems_are_told_what_works_there(monkeypatch: pytest.MonkeyPatch, method: str):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(NotAvailableError, match=f"start_method='{method}' needs Linux, this is darwin") as caught:
        make_plan(RunConfig(num_processes=1, start_method=method), Inventory.fake())
    assert "spawn" in caught.value.hint
    assert make_plan(RunConfig(start_method="inline"), Inventory.fake()).world_size == 1


@pytest.mark.parametrize(("system", "method"), [("linux", "forkserver"), ("darwin", "spawn"), ("other", "spawn")])
def test_each_system_has_its_start_method(monkeypatch: pytest.MonkeyPatch, system: str, method: str):
    monkeypatch.setattr("sys.platform", system)
    assert default_start_method() == method
    plan = make_plan(RunConfig(num_processes=2), Inventory.fake())
    assert plan.start_method == method
    assert str(plan) == "2 CPU processes, gloo", "the default is not worth a word"


@pytest.mark.parametrize(
    ("method", "words"),
    [("fork", "forked from this process"), ("spawn", "in fresh interpreters"), ("forkserver", "")],
)
def test_another_way_to_start_is_said(method: str, words: str):
    text = str(make_plan(RunConfig(num_processes=1, start_method=method), Inventory.fake()))
    assert text == ", ".join(filter(None, ["1 CPU process", words]))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_only_the_helper_preloads(method: str):
    with pytest.raises(ConfigError, match=f'preload has no meaning with start_method="{method}"'):
        make_plan(RunConfig(start_method=method, preload="json"), Inventory.fake())


HOLDERS = {"0": "the run of a (started 3 s ago)", "2": "the run of b (started 5 s ago)"}


@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ({}, [1, 3]),
        ({"num_processes": 1}, [1]),
        ({"num_processes": 2, "devices": "cuda"}, [1, 3]),
        ({"devices": (3, 1)}, [3, 1]),
        ({"devices": (1,)}, [1]),
        ({"devices": "cpu"}, []),
    ],
    ids=str,
)
def test_what_nobody_holds_is_taken(config: dict, chosen: list[int]):
    plan = make_plan(RunConfig(**config), machine(cuda=4), holders=HOLDERS)
    assert [device.index for device in plan.devices] == chosen
    assert plan.environ["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, chosen))


@pytest.mark.parametrize(
    ("config", "gpus", "said", "advice"),
    [
        ({"devices": (0,)}, 4, ["GPU 0 by the run of a (started 3 s ago)"], "devices=[1, 3] is free"),
        ({"devices": (2, 1)}, 4, ["GPU 2 by the run of b (started 5 s ago)"], "devices=[1, 3] is free"),
        ({"devices": (0, 2)}, 4, ["GPU 0 by the run of a", "GPU 2 by the run of b"], "devices=[1, 3] is free"),
        ({"num_processes": 3}, 4, ["GPU 0 by the run of a", "GPU 2 by the run of b"], "devices=[1, 3] is free"),
        ({}, 1, ["GPU 0 by the run of a (started 3 s ago)"], "no other is free"),
        ({"devices": (0, 1), "num_processes": 1}, 4, ["GPU 0 by the run of a"], "devices=[1, 3] is free"),
    ],
    ids=str,
)
def test_what_is_held_is_refused_with_who_holds_it(config: dict, gpus: int, said: list[str], advice: str):
    with pytest.raises(ConfigError) as caught:
        make_plan(RunConfig(**config), machine(cuda=gpus), holders=HOLDERS)
    assert all(words in caught.value.what for words in said)
    assert caught.value.hint == f"wait for them or .stop() them; {advice}"


def test_the_one_mps_device_is_held_like_any():
    with pytest.raises(ConfigError, match="devices are held by runs that have not ended"):
        make_plan(RunConfig(), machine(mps=1), holders=HOLDERS)
    assert make_plan(RunConfig(devices="cpu"), machine(mps=1), holders=HOLDERS).device_kind == "cpu"


def machine(**kinds: int) -> Inventory:
    devices = (
        Device(kind=kind, index=i, name=f"{kind} {i}", selector=str(i)) for kind, n in kinds.items() for i in range(n)
    )
    return Inventory(cpu_cores=4, devices=tuple(devices))


@pytest.mark.parametrize(
    ("config", "there", "words"),
    [
        ({"devices": "cuda"}, {}, "devices='cuda', but this machine has the CPU only"),
        ({"devices": "mps"}, {"cuda": 2}, "devices='mps', but this machine has cuda"),
        ({"devices": "cuda"}, {"mps": 1}, "devices='cuda', but this machine has mps"),
        ({"devices": (0, 4, 5)}, {"cuda": 2}, r"names \[4, 5\], but this process sees GPUs \[0, 1\]"),
        ({"devices": (0,)}, {}, "but this process sees no GPU"),
        ({"devices": (0,)}, {"mps": 1}, "but this process sees no GPU"),
        ({"num_processes": 3}, {"cuda": 2}, "num_processes=3, but there are 2 devices to run on"),
        ({"num_processes": 2}, {"cuda": 1}, "num_processes=2, but there is 1 device to run on"),
        ({"num_processes": 3, "devices": (1, 0)}, {"cuda": 4}, "num_processes=3, but there are 2 devices"),
        ({"num_processes": 2}, {"mps": 2}, "MPS is one device"),
        ({"start_method": "inline", "num_processes": 2}, {}, "which is one rank, not 2"),
        ({"start_method": "inline", "devices": (1,)}, {"cuda": 2}, r"which devices=\(1,\) cannot change"),
        ({"start_method": "inline", "preload": ("a",)}, {}, "preload has no meaning"),
        ({"start_method": "inline", "timeout_seconds": 1}, {}, "timeout_seconds cannot end a function"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_advice(config: dict, there: dict[str, int], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        make_plan(RunConfig(**config), machine(**there))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("config", "there", "kind", "chosen"),
    [
        ({"devices": (1, 0), "num_processes": 1}, {"cuda": 2}, "cuda", [1]),
        ({"devices": "cuda"}, {"cuda": 3}, "cuda", [0, 1, 2]),
        ({"devices": "mps"}, {"mps": 1}, "mps", [0]),
        ({}, {"mps": 1}, "mps", [0]),
        ({"start_method": "inline", "devices": (0,)}, {"cuda": 2}, "cuda", [0]),
        ({"start_method": "inline", "devices": "cpu"}, {"cuda": 2}, "cpu", []),
    ],
    ids=str,
)
def test_which_devices(config: dict, there: dict[str, int], kind: str, chosen: list[int]):
    plan = make_plan(RunConfig(**config), machine(**there))
    assert (plan.device_kind, [device.index for device in plan.devices]) == (kind, chosen)
    assert plan.world_size == max(1, len(chosen))
    assert plan.start_method == config.get("start_method", "forkserver")


# ---- TPU chips


@pytest.mark.parametrize(
    ("config", "chips", "text", "method"),
    [
        ({}, 8, "8 TPU processes, XLA (TPU v5e)", "fork"),
        ({}, 1, "1 TPU process (TPU v5e)", "fork"),
        ({"num_processes": 8, "mixed_precision": "bf16"}, 8, "8 TPU processes, XLA, bf16 (TPU v5e)", "fork"),
        (
            {"devices": "tpu", "start_method": "spawn"},
            4,
            "4 TPU processes, XLA, in fresh interpreters (TPU v5e)",
            "spawn",
        ),
        ({"start_method": "forkserver"}, 4, "4 TPU processes, XLA (TPU v5e)", "fork"),
    ],
)
def test_every_chip_has_a_process(config: dict, chips: int, text: str, method: str):
    plan = make_plan(RunConfig(**config), chips_machine(chips))
    assert (str(plan), plan.world_size, plan.device_kind, plan.start_method) == (text, chips, "xla", method)
    assert plan.environ["PJRT_DEVICE"] == "TPU"
    assert "CUDA_VISIBLE_DEVICES" not in plan.environ


def test_one_process_has_one_of_the_chips():
    plan = make_plan(RunConfig(num_processes=1), chips_machine(8))
    assert (plan.world_size, [device.index for device in plan.devices]) == (1, [0])
    assert plan.environ["TPU_PROCESS_BOUNDS"] == "1,1,1"
    assert "TPU_PROCESS_BOUNDS" not in make_plan(RunConfig(num_processes=1), chips_machine(1)).environ


@pytest.mark.parametrize(
    ("asked", "chips", "said"), [(4, 8, "say 8, or 1 for one of the chips"), (16, 8, "say 8, or 1"), (8, 1, "say 1")]
)
def test_another_number_than_the_chips_is_refused_with_theirs(asked: int, chips: int, said: str):
    with pytest.raises(ConfigError, match=f"num_processes={asked}, but torch_xla .*, which is {chips}") as caught:
        make_plan(RunConfig(num_processes=asked), chips_machine(chips))
    assert said in caught.value.hint


@pytest.mark.parametrize(
    ("config", "name", "said"),
    [
        ({}, "TPU v2 or v3", "two devices of such a chip in one process"),
        ({}, "TPU v7", "two devices of such a chip in one process"),
        ({"mixed_precision": "fp16"}, "TPU v5e", 'mixed_precision="fp16": TPU v5e computes in bfloat16'),
        ({"start_method": "inline"}, "TPU v5e", "could not launch again"),
        ({"preload": ("numpy",)}, "TPU v5e", "no warm helper"),
    ],
)
def test_what_a_tpu_cannot_do_is_refused(config: dict, name: str, said: str):
    with pytest.raises(ConfigError, match=said):
        make_plan(RunConfig(**config), chips_machine(1, name))


@pytest.mark.parametrize(
    ("config", "chips", "name", "text"),
    [
        ({}, 8, "TPU v5e", "8 TPU processes, tpu_dist (TPU v5e)"),
        ({}, 2, "TPU v5e", "1 TPU process (TPU v5e)"),
        ({"num_processes": 4, "mixed_precision": "bf16"}, 8, "TPU v6e", "4 TPU processes, tpu_dist, bf16 (TPU v6e)"),
        ({"num_processes": 2, "devices": "tpu"}, 4, "TPU v5p", "2 TPU processes, tpu_dist (TPU v5p)"),
        ({"start_method": "forkserver"}, 4, "TPU v7", "4 TPU processes, tpu_dist (TPU v7)"),
    ],
)
def test_torch_tpu_has_processes_of_the_ordinary_kind(config: dict, chips: int, name: str, text: str):
    plan = make_plan(RunConfig(**config), chips_machine(chips, name, "tpu"))
    assert str(plan) == text
    assert (plan.device_kind, plan.start_method, len(plan.devices)) == ("tpu", "spawn", plan.world_size)
    assert plan.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] == "1"
    assert "PJRT_DEVICE" not in plan.environ


@pytest.mark.parametrize(
    ("config", "chips", "name", "said"),
    [
        (
            {"num_processes": 2},
            8,
            "TPU v5e",
            "num_processes=2, but torch_tpu uses 8 x TPU v5e with 1 or 4 or 8 processes",
        ),
        ({"num_processes": 8}, 4, "TPU v4", "with 1 or 2 or 4 processes"),
        ({}, 1, "TPU v7", "torch_tpu cannot use 1 x TPU v7"),
        ({}, 4, "TPU v2 or v3", "torch_tpu cannot use 4 x TPU v2 or v3"),
        ({"start_method": "fork"}, 1, "TPU v5e", "cannot use a TPU in a fork"),
        ({"start_method": "inline"}, 1, "TPU v5e", "could not launch again"),
        ({"preload": ("numpy",)}, 1, "TPU v5e", "no warm helper"),
        ({"mixed_precision": "fp16"}, 1, "TPU v5e", "computes in bfloat16"),
    ],
)
def test_what_torch_tpu_cannot_do_is_refused(config: dict, chips: int, name: str, said: str):
    with pytest.raises(ConfigError, match=said):
        make_plan(RunConfig(**config), chips_machine(chips, name, "tpu"))


def test_ranks_on_the_cpu_leave_torch_tpu_alone():
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    beside = make_plan(RunConfig(devices="cpu"), chips_machine(8, kind="tpu"))
    assert {*off.items()} <= {*beside.defaults.items()}, "a user's own setting is kept"
    assert not {*off} & {*make_plan(RunConfig(devices="cpu"), Inventory.fake()).defaults}


def test_the_cpu_may_be_chosen_beside_chips():
    assert make_plan(RunConfig(devices="cpu"), chips_machine(8)).device_kind == "cpu"


def test_chips_of_another_run_are_refused():
    with pytest.raises(ConfigError, match="held by runs that have not ended: TPU 0 by the run of train"):
        make_plan(RunConfig(), chips_machine(2), holders={"tpu0": "the run of train"})


def test_a_rehearsal_is_taken_only_by_name():
    (device,) = chips_machine(1, "XLA on the CPU").devices
    inventory = Inventory(cpu_cores=4, rehearsal=(device,))
    assert make_plan(RunConfig(), inventory).device_kind == "cpu"
    plan = make_plan(RunConfig(devices="tpu"), inventory)
    assert (plan.device_kind, plan.environ["PJRT_DEVICE"], plan.environ["CPU_NUM_DEVICES"]) == ("xla", "CPU", "1")
    with pytest.raises(ConfigError, match="devices='tpu', but this machine has the CPU only"):
        make_plan(RunConfig(devices="tpu"), Inventory.fake())


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [("auto", [0, 2]), ("cuda", [0, 2]), ((0,), [0])],
)
def test_gpus_that_torch_has_no_kernels_for_are_left_out(devices: object, chosen: list[int]):
    plan = make_plan(RunConfig(devices=devices), Inventory.fake(gpus=["T4", "P100", "T4"]))
    assert [device.index for device in plan.devices] == chosen
    assert ("left out: GPU 1 (Tesla P100-PCIE-16GB): torch" in str(plan)) == (devices != (0,))


def test_what_is_left_out_explains_why_there_are_too_few():
    with pytest.raises(ConfigError, match=r"there is 1 device to run on, without GPU 1 \(Tesla P100.*no kernels"):
        make_plan(RunConfig(num_processes=2), Inventory.fake(gpus=["T4", "P100"]))


@pytest.mark.parametrize(
    ("devices", "gpus", "advice"),
    [((0, 1), ["T4", "P100"], "devices=[0]"), ("auto", ["P100"], 'devices="cpu"')],
)
def test_a_gpu_that_torch_has_no_kernels_for_is_refused_with_the_reason(devices: object, gpus: list[str], advice: str):
    with pytest.raises(NotAvailableError, match=r"P100.*no kernels for its compute capability 6\.0") as refused:
        make_plan(RunConfig(devices=devices), Inventory.fake(gpus=gpus))
    assert advice in str(refused.value)
