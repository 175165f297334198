"""Files are on the disk, whole, with a known checksum, when that is said; where they are not, the reason is."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash

from notebook_accel.core.files.sink import FileRecord, record_of, written
from notebook_accel.errors import CheckpointError

FULL = """
import resource, signal, sys
from pathlib import Path
from notebook_accel.core.files.sink import written
from notebook_accel.errors import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with written(Path(sys.argv[1], "large.bin")) as sink:
        sink.write(bytes(1 << 22))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("sizes", [(), (0,), (1, 2, 3), (3_000_000, 7), (70_000,) * 5])
def test_a_record_is_that_of_the_file(tmp_path: Path, sizes: tuple[int, ...], staged: bool):
    data = [os.urandom(size) for size in sizes]
    with written(tmp_path / "file", staged=staged) as sink:
        for piece in data:
            assert sink.write(piece) == len(piece)
    whole = b"".join(data)
    assert (tmp_path / "file").read_bytes() == whole
    assert sink.record == record_of(tmp_path / "file") == FileRecord(len(whole), xxhash.xxh3_64_hexdigest(whole))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file could not be written: File exists"), written(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_named(tmp_path: Path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.SIGXFSZ
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "large.bin could not be written: File too large" in done.stdout
    assert "MB are free" in done.stdout
    assert "training may go on" in done.stdout
