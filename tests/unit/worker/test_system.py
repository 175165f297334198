from __future__ import annotations

import os
import signal
import sys

import pytest

from notebook_accel.worker import system
from tests.unit.worker.forks import in_a_child, in_a_fork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the mechanism is Linux's")


@pytest.mark.parametrize("system_name", ["linux", "another"])
@pytest.mark.parametrize("closed_before", [False, True])
def test_a_group_dies_with_the_writer_of_its_pipe(closed_before: bool, system_name: str):
    (read_end, write_end), (ready_read, ready_write) = os.pipe(), os.pipe()
    if closed_before:
        os.close(write_end)

    def lead() -> None:
        sys.platform = system_name
        os.setpgid(0, 0)
        if not closed_before:
            os.close(write_end)
        if os.fork() == 0:  # a worker of the rank: it must not outlive it
            signal.pause()
        system.lead_group_until_closed(read_end)
        os.write(ready_write, b"x")
        while True:
            signal.pause()

    leader = in_a_child(lead)
    os.close(ready_write)
    os.close(read_end)
    if not closed_before:
        assert os.read(ready_read, 1) == b"x"
        os.close(write_end)
    assert os.waitpid(leader, 0)[1] == signal.SIGKILL
    assert os.read(ready_read, 2) in ({b"", b"x"} if closed_before else {b""})
    assert os.read(ready_read, 1) == b"", "the worker held the last copy, and is gone too"
    os.close(ready_read)


@pytest.mark.parametrize("system_name", ["linux", "another"])
def test_a_leader_ends_while_native_code_holds_the_interpreter(system_name: str):
    """Only the thread of other systems needs the interpreter: there, the end comes when the native code is done."""
    import ctypes

    lifeline, (ready_read, ready_write) = os.pipe(), os.pipe()

    def be_busy() -> None:
        signal.alarm(30)
        sys.platform = system_name
        os.close(lifeline[1])
        system.lead_group_until_closed(lifeline[0])
        os.write(ready_write, b"x")
        ctypes.PyDLL(None).usleep(300_000 if system_name == "another" else 900_000_000)
        signal.pause()

    leader = in_a_child(be_busy)
    os.close(ready_write)
    os.close(lifeline[0])
    assert os.read(ready_read, 1) == b"x"
    os.close(lifeline[1])
    assert os.waitpid(leader, 0)[1] == signal.SIGKILL
    assert os.read(ready_read, 1) == b""
    os.close(ready_read)


def test_a_leader_goes_on_while_a_writer_lives():
    lifeline = os.pipe()

    def lead() -> int:
        held = os.dup(lifeline[1])
        os.close(lifeline[1])
        system.lead_group_until_closed(lifeline[0])
        return os.getpgrp() - os.getpid() + (0 if held > 0 else 1)

    assert in_a_fork(lead) == 0
    for end in lifeline:
        os.close(end)


def test_a_name_for_ps():
    pid = os.fork()
    if pid == 0:
        system.set_process_name("a-name-that-is-too-long")
        with open("/proc/self/comm") as file:
            os._exit(0 if file.read() == "a-name-that-is-\n" else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_signalling_a_group_that_is_gone_is_fine():
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os._exit(0)
    os.waitpid(pid, 0)
    assert system.kill_group(pid, signal.SIGKILL) is None


def test_a_descriptor_tells_of_a_processs_end():
    import select

    pid = os.fork()
    if pid == 0:
        signal.pause()
    descriptor = system.open_process(pid)
    assert descriptor is not None
    assert select.select([descriptor], [], [], 0)[0] == []
    os.kill(pid, signal.SIGKILL)
    assert select.select([descriptor], [], [], 10)[0] == [descriptor]
    os.waitpid(pid, 0)
    os.close(descriptor)
    assert system.open_process(pid) is None


def test_orphans_of_a_reaper_are_its_own():
    def adopt() -> bool:
        read_end, write_end = os.pipe()
        system.become_subreaper()
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os.close(write_end)
                os.read(read_end, 1)  # until the reaper has seen its parent end
            os._exit(0)
        os.close(read_end)
        assert os.waitpid(-1, 0)[0] == child
        os.close(write_end)
        orphan, status = os.waitpid(-1, 0)
        return orphan != child and status == 0

    assert in_a_fork(adopt)


def test_closing_a_list():
    ends = os.pipe()
    system.close_all(list(ends))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ends[0])
    assert system.close_all([]) is None


def test_what_c_has_printed_is_written_out():
    read_end, write_end = os.pipe()

    def speak() -> None:
        os.dup2(write_end, 1)
        system._libc.puts(b"from C")
        system.flush_c_streams()

    in_a_fork(speak)
    os.close(write_end)
    with open(read_end, "rb") as file:
        assert file.read() == b"from C\n"


def test_other_systems_have_none_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "pidfd_open")
    assert system.set_process_name("x") is system.become_subreaper() is None
    assert system.open_process(os.getpid()) is None


def test_the_tensor_files_of_killed_processes_are_removed():
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        signal.pause()
    os.setpgid(pid, pid)
    left, kept = f"/dev/shm/torch_{pid}_1_0", f"/dev/shm/torch_{pid}1_1_0"
    for path in (left, kept):
        with open(path, "w"):
            pass
    assert system.group_members(pid) == {pid}
    system.kill_group(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    system.remove_shared_memory({pid})
    assert not os.path.exists(left)
    assert os.path.exists(kept), "another process's file"
    os.unlink(kept)
    assert system.group_members(pid) == set()
