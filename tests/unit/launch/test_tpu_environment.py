from __future__ import annotations

import pytest

from notebook_accel.errors import NotAvailableError
from notebook_accel.launch.tpu_environment import check_hosts, cleaned, hosts

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
    assert kept == {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "HOME": "here"}
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
