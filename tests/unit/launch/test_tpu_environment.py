from __future__ import annotations

import sys
import types

import pytest

from notebook_accel.errors import NotAvailableError
from notebook_accel.launch.tpu_environment import check_free, check_hosts, cleaned, hosts

WARNING_TEXT = "WARNING: could not determine TPU worker hostnames or IP addresses, please set env var"


def test_what_an_image_sets_wrong_is_left_out_and_said():
    found = {
        "TPU_PROCESS_ADDRESSES": "local",
        "CLOUD_TPU_TASK_ID": "0",
        "TPU_WORKER_HOSTNAMES": WARNING_TEXT,
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "HOME": "here",
    }
    kept, said = cleaned(found)
    assert kept == {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "HOME": "here", "TPU_WORKER_ID": "0"}
    (line,) = said
    assert "TPU_PROCESS_ADDRESSES='local'" in line
    assert "CLOUD_TPU_TASK_ID='0'" in line
    assert "TPU_WORKER_HOSTNAMES='WARNING: could not determine TPU work...'" in line
    assert len(found) == 5, "the kernel's own stay"


def test_nothing_is_said_where_all_is_right():
    right = {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_SKIP_MDS_QUERY": "1"}
    assert cleaned(right) == (right, [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("localhost", ["localhost"]),
        ("t1v-n-0, t1v-n-1", ["t1v-n-0", "t1v-n-1"]),
        ("10.0.0.1,10.0.0.2", ["10.0.0.1", "10.0.0.2"]),
        (WARNING_TEXT, []),
        ("", []),
    ],
)
def test_hosts_are_plain_names(value: str, expected: list[str]):
    assert hosts({"TPU_WORKER_HOSTNAMES": value}) == expected


def test_a_slice_of_several_machines_is_refused():
    check_hosts({"TPU_WORKER_HOSTNAMES": WARNING_TEXT})
    with pytest.raises(NotAvailableError, match=r"2 machines \(t1v-n-0, t1v-n-1\)"):
        check_hosts({"TPU_WORKER_HOSTNAMES": "t1v-n-0,t1v-n-1"})


@pytest.mark.parametrize(("live", "device", "held"), [(True, "TPU", True), (True, "CPU", False), (False, "TPU", False)])
def test_chips_that_the_kernel_itself_holds_are_refused(
    monkeypatch: pytest.MonkeyPatch, live: bool, device: str, held: bool
):
    stand_in = types.ModuleType("torch_xla")
    stand_in._XLAC = types.SimpleNamespace(_xla_runtime_is_initialized=lambda: live)
    monkeypatch.setitem(sys.modules, "torch_xla", stand_in)
    if not held:
        check_free({"PJRT_DEVICE": device})
        return
    with pytest.raises(NotAvailableError, match="the XLA runtime is initialised in this process") as caught:
        check_free({"PJRT_DEVICE": device})
    assert "restart the kernel" in caught.value.hint


def test_the_machines_number_stays_where_only_the_tasks_had_it():
    assert cleaned({"CLOUD_TPU_TASK_ID": "0", "TPU_WORKER_ID": "1"})[0] == {"TPU_WORKER_ID": "1"}
    assert cleaned({"CLOUD_TPU_TASK_ID": "none"})[0] == {}
