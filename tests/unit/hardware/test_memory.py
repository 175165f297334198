from __future__ import annotations

from pathlib import Path

import pytest

from notebook_accel.hardware.memory import MemoryState


def system(root: Path, **files: str) -> Path:
    """Write files of a made-up system: ``proc__self__cgroup`` is proc/self/cgroup."""
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("DOT", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_a_group_of_version_2(tmp_path: Path):
    root = system(
        tmp_path,
        proc__self__cgroup="0::/user/notebook\n",
        sys__fs__cgroup__user__notebook__memoryDOTevents="low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n",
        sys__fs__cgroup__user__notebook__memoryDOTmax="12884901888\n",
        proc__vmstat="nr_free_pages 1\noom_kill 7\n",
    )
    assert MemoryState.read(root) == MemoryState(2, 7, 12 << 30)


def test_what_is_used_leaves_out_files_that_were_read(tmp_path: Path):
    root = system(
        tmp_path,
        proc__self__cgroup="0::/\n",
        sys__fs__cgroup__memoryDOTmax="1000\n",
        sys__fs__cgroup__memoryDOTcurrent="700\n",
        sys__fs__cgroup__memoryDOTstat="anon 300\ninactive_file 250\n",
    )
    assert MemoryState.read(root) == MemoryState(None, None, 1000, 450)


def test_what_is_used_in_a_group_of_version_1(tmp_path: Path):
    root = system(
        tmp_path,
        proc__self__cgroup="4:memory:/docker/ab\n",
        sys__fs__cgroup__memory__docker__ab__memoryDOTlimit_in_bytes="1000\n",
        sys__fs__cgroup__memory__docker__ab__memoryDOTusage_in_bytes="700\n",
    )
    assert MemoryState.read(root) == MemoryState(None, None, 1000, 700)


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path):
    root = system(
        tmp_path,
        proc__self__cgroup="0::/../elsewhere\n",
        sys__fs__cgroup__memoryDOTevents="oom 1\noom_kill 1\n",
        sys__fs__cgroup__memoryDOTmax="max\n",
    )
    assert MemoryState.read(root) == MemoryState(1, None, None)


@pytest.mark.parametrize(("limit", "expected"), [("2147483648\n", 2 << 30), ("9223372036854771712\n", None)])
def test_a_group_of_version_1(tmp_path: Path, limit: str, expected: int | None):
    root = system(
        tmp_path,
        proc__self__cgroup="9:cpu:/\n4:memory:/docker/ab\n0::/\n",
        sys__fs__cgroup__memory__docker__ab__memoryDOToom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
        sys__fs__cgroup__memory__docker__ab__memoryDOTlimit_in_bytes=limit,
    )
    assert MemoryState.read(root) == MemoryState(5, None, expected)


def test_a_system_that_says_nothing(tmp_path: Path):
    assert MemoryState.read(tmp_path) == MemoryState()
    assert MemoryState().ran_out_since(MemoryState()) is None


def test_whose_memory_ran_out():
    before = MemoryState(1, 4, None)
    assert MemoryState(1, 4).ran_out_since(before) is None
    assert MemoryState(2, 5).ran_out_since(before) == "the memory that this notebook may use"
    assert MemoryState(1, 5).ran_out_since(before) == "the machine's memory"


def test_this_machine_can_be_asked():
    now = MemoryState.read()
    assert now.ran_out_since(now) is None
