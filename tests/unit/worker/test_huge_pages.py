from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import pytest

from notebook_accel.worker import huge_pages

PAGE = 2 << 20


@pytest.mark.parametrize(
    "line",
    [
        "600000000000-600010000000 r--p 00000000 00:00 0 ",
        "600000000000-600010000000 r-xp 00000000 00:00 0 ",
        "600000000000-600010000000 rw-s 00000000 00:00 0 ",
        "600000000000-600010000000 rw-p 00000000 08:01 4711                       /usr/lib/libc.so.6",
        "600000000000-600010000000 rw-p 00000000 00:00 0                          [stack]",
        "600000000000-600000100000 rw-p 00000000 00:00 0 ",
        "600000100000-600000300000 rw-p 00000000 00:00 0                          [heap]",
        "no mapping at all",
        "",
    ],
    ids=["read only", "code", "shared", "file", "stack", "small", "no whole page", "junk", "empty"],
)
def test_what_is_left_alone(tmp_path: Path, line: str):
    (tmp_path / "maps").write_text(f"{line}\n")
    assert list(huge_pages.collapse_heap(tmp_path / "maps")) == []


@pytest.mark.parametrize("name", ["", "                         [heap]"])
def test_every_whole_page_is_tried_once_and_a_failure_is_no_error(tmp_path: Path, name: str):
    line = f"{0x600000001000:x}-{0x600000001000 + 4 * PAGE:x} rw-p 00000000 00:00 0 {name}\n"
    (tmp_path / "maps").write_text(line * 2)
    assert list(huge_pages.collapse_heap(tmp_path / "maps")) == [False] * 6, "nothing is mapped there"


def test_memory_is_what_it_was(tmp_path: Path):
    with mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as region:
        pattern = bytes(range(256)) * (len(region) // 256)
        region[:] = pattern
        begin = ctypes.addressof(ctypes.c_char.from_buffer(region))
        (tmp_path / "maps").write_text(f"{begin:x}-{begin + len(region):x} rw-p 00000000 00:00 0 \n")
        assert len(list(huge_pages.collapse_heap(tmp_path / "maps"))) in {3, 4}
        assert region[:] == pattern
