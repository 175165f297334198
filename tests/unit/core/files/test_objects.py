"""Plain data, tensors and arrays come back; what would run as code does not."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from notebook_accel.core.files.objects import read_objects, write_objects
from notebook_accel.errors import CheckpointError


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


def test_plain_data_tensors_and_arrays_come_back(tmp_path: Path):
    data = {
        "numbers": [1, 2.5, True, None, 3 + 4j],
        "nested": collections.OrderedDict(a=(1, "b"), b={"c": b"bytes"}),
        "tensor": torch.ones(2, 3, dtype=torch.bfloat16),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "scalar": np.float32(2.5),
    }
    record = write_objects(tmp_path / "file", data)
    found = read_objects(tmp_path / "file")
    assert record.size_bytes == (tmp_path / "file").stat().st_size
    assert torch.equal(found["tensor"], data["tensor"])  # type: ignore[arg-type]
    assert np.array_equal(found["array"], data["array"])  # type: ignore[arg-type]
    assert (found["numbers"], found["nested"], found["scalar"]) == (data["numbers"], data["nested"], data["scalar"])
    assert torch.load(tmp_path / "file", weights_only=False)["numbers"] == data["numbers"]


def test_what_could_not_be_read_back_is_refused_when_it_is_saved(tmp_path: Path):
    with pytest.raises(CheckpointError, match="file would hold pathlib") as caught:
        write_objects(tmp_path / "file", {"path": tmp_path})
    assert "without running code" in str(caught.value)


@pytest.mark.parametrize("as_archive", [False, True])
def test_code_is_not_run(tmp_path: Path, as_archive: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "optimizer.bin"
    if as_archive:
        torch.save({"state": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"state": Evil()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"optimizer\.bin holds something that is not data"):
        read_objects(path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_damaged_files_are_named(tmp_path: Path, damage: str):
    path = tmp_path / "file"
    write_objects(path, {"tensor": torch.ones(1000)})
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:2000], "empty": b"", "noise": b"PK" + os.urandom(100)}[damage])
    with pytest.raises(CheckpointError, match="file"):
        read_objects(path)
