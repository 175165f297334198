from __future__ import annotations

import os
import pickle

import pytest

from notebook_accel import share
from notebook_accel.launch.job import Call, make_job
from notebook_accel.wire.control import StartRun
from notebook_accel.worker import births
from notebook_accel.worker.flags import Flags
from notebook_accel.worker.seat import Seat, load_call


def start_of(**changes: object) -> StartRun:
    values = {
        "run_id": "r",
        "world_size": 3,
        "device_kind": "cpu",
        "mixed_precision": "no",
        "seed": None,
        "threads_per_rank": 1,
        "port": 1234,
        "grace_seconds": 1.0,
        "stop_at_seconds": float("inf"),
        "returns": "all",
        "restart_count": 2,
        "max_restarts": 4,
        "resumes": False,
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "sys_path": (),
        "sources": {},
    }
    return StartRun(**{**values, **changes})


SEAT = Seat(number=1, output=10, events=11, result=12, lifeline=13, stack=14, waking=15)


def test_a_seats_place_in_the_world():
    world = SEAT.world(start_of())
    assert (world.rank, world.local_rank, world.world_size, world.local_world_size) == (1, 1, 3, 3)
    assert (world.master_port, world.agent_store) == (1234, True)
    assert (world.restart_count, world.max_restarts) == (2, 4)
    assert SEAT.descriptors == (10, 11, 12, 13, 14, 15)
    assert pickle.loads(pickle.dumps(SEAT)) == SEAT


def copies(job) -> list[int]:
    return [os.dup(file) for file in job.files]


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_call_is_rebuilt_and_its_file_used_up():
    job = make_job(Call(max, (1, 2), {"key": abs}))
    files = copies(job)
    job.close()
    assert load_call(files) == (max, (1, 2), {"key": abs})
    assert not is_open(files[0])


def test_a_shared_function_is_read_and_shared_arguments_stay_handles():
    with share(max) as function, share([1, 2]) as table:
        job = make_job(Call(function, (table,)))
        files = copies(job)
        job.close()
    target, (argument,), kwargs = load_call(files)
    assert (target, argument.value, kwargs) == (max, [1, 2], {})
    assert [is_open(file) for file in files[:2]] == [False, True] or not is_open(files[0])
    argument.free()
    del argument
    assert not any(is_open(file) for file in files)


def test_what_goes_wrong_at_birth_ends_the_child_alone():
    """It must not go on as a second supervisor."""
    flags_file = Flags.make_file(3)
    lifeline = os.pipe()
    wrong = Seat(number=0, output=-1, events=-1, result=-1, lifeline=lifeline[0], stack=-1, waking=-1)
    birth = births.forked(start_of(), lambda: pytest.fail("nobody calls it"))
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads
        pid = birth(wrong, flags_file, [-1])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 70
    for descriptor in (flags_file, *lifeline):
        os.close(descriptor)


def test_an_interpreter_that_does_not_exist_leaves_nothing_inheritable(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setattr(sys, "executable", "/no/such/python")
    flags_file = Flags.make_file(3)
    ends = [*os.pipe(), *os.pipe(), *os.pipe()]
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        births.execed(start_of(), [])(Seat(0, *ends), flags_file, [])
    assert set(os.listdir("/proc/self/fd")) == before
    assert not any(os.get_inheritable(end) for end in (*ends, flags_file))
    for descriptor in (flags_file, *ends):
        os.close(descriptor)
