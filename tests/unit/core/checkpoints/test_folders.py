"""Folders of checkpoints: other files stay, what is too much goes, what is not complete is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from notebook_accel.core.checkpoints import folders
from notebook_accel.core.checkpoints.manifest import MANIFEST, Manifest
from notebook_accel.core.files.sink import FileRecord, written
from notebook_accel.errors import CheckpointError


def checkpoint(target: Path, text: str = "state") -> None:
    staging = folders.begin(target)
    with written(staging / "scaler.pt") as sink:
        sink.write(text.encode())
    Manifest(world_size=1, counts={}, files={"scaler.pt": sink.record}).write(staging)
    folders.commit(staging, target)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_to_be_at_once(tmp_path: Path):
    target = tmp_path / "new" / "x"
    staging = folders.begin(target)
    assert not target.exists()
    assert folders.why_incomplete(target) == f"{target} has no {MANIFEST}"
    folders.commit(staging, target)
    assert names(tmp_path / "new") == ["x"]


def test_what_a_save_left_is_removed_by_the_next(tmp_path: Path):
    (folders.begin(tmp_path / "x") / "half").write_text("")
    assert list(folders.begin(tmp_path / "x").iterdir()) == []


def test_other_files_stay_when_a_checkpoint_is_replaced(tmp_path: Path):
    target = tmp_path / "x"
    checkpoint(target, "old")
    log = (target / "log.txt").open("w")
    (target / "plots").mkdir()
    (target / "plots" / "a.png").write_text("a")
    (target / "link").symlink_to("log.txt")
    (target / "model_1.safetensors").write_text("of a model that is no longer there")
    checkpoint(target, "new")
    log.write("written through the old name")
    log.close()
    assert names(target) == ["link", "log.txt", MANIFEST, "plots", "scaler.pt"]
    assert (target / "link").read_text() == "written through the old name"
    assert (target / "plots" / "a.png").read_text() == "a"
    assert (target / "scaler.pt").read_text() == "new"
    assert names(tmp_path) == ["x"]


def test_a_swap_that_was_cut_short_is_ended(tmp_path: Path):
    target = tmp_path / "x"
    checkpoint(target, "old")
    target.rename(folders.replaced_of(target))
    staging = folders.begin(target)
    assert (target / "scaler.pt").read_text() == "old"
    (folders.replaced_of(target)).mkdir()
    folders.begin(target)
    assert names(tmp_path) == [staging.name, "x"]


def test_the_newest_complete_one_is_found(tmp_path: Path):
    assert folders.newest(tmp_path / "nowhere") == (None, [])
    for number in (2, 10, 9):
        checkpoint(tmp_path / f"checkpoint_{number}")
    assert folders.newest(tmp_path) == (tmp_path / "checkpoint_10", [])
    (tmp_path / "checkpoint_10" / "scaler.pt").write_text("torn")
    (tmp_path / "checkpoint_11").mkdir()
    (tmp_path / "checkpoint_12").mkdir()
    (tmp_path / "checkpoint_12" / MANIFEST).write_text("{")
    found, wrong = folders.newest(tmp_path)
    assert found == tmp_path / "checkpoint_9"
    assert [words.split(" ", 1)[1].split(":")[0] for words in wrong] == [
        "is damaged",
        f"has no {MANIFEST}",
        "has 4 bytes instead of 5",
    ]


def test_the_oldest_are_removed(tmp_path: Path):
    for number in range(5):
        checkpoint(tmp_path / f"checkpoint_{number}")
    (tmp_path / "checkpoints_of_mine").mkdir()
    (tmp_path / ".checkpoint_7.saving").mkdir()
    folders.prune(tmp_path, 2, tmp_path / "checkpoint_4")
    assert names(tmp_path) == ["checkpoint_3", "checkpoint_4", "checkpoints_of_mine"]
    folders.prune(tmp_path, 1, tmp_path / "checkpoint_4")
    assert names(tmp_path) == ["checkpoint_4", "checkpoints_of_mine"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="could not be made"):
        folders.begin(tmp_path / "x")
    tmp_path.chmod(0o700)


def test_a_file_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/\.x\.saving could not be made"):
        folders.begin(tmp_path / "file" / "x")


def test_disks_of_this_machine_are_told_from_others(tmp_path: Path):
    assert folders.unreliable(tmp_path / "not" / "there") is None
    mounts = """\
1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 0:9 / /content/My\\040Drive rw shared:3 - fuse.drive drive rw
3 2 0:9 / /content/My\\040Drive/local rw - tmpfs tmpfs rw"""
    kinds = {"/content": None, "/content/My Drive": "fuse.drive", "/content/My Drive/x/y": "fuse.drive"}
    assert {path: folders.unreliable(Path(path), mounts) for path in kinds} == kinds
    assert folders.unreliable(Path("/content/My Drive/local/x"), mounts) is None


def test_a_record_says_what_was_written(tmp_path: Path):
    checkpoint(tmp_path / "x", "abc")
    assert folders.read_manifest(tmp_path / "x").files == {"scaler.pt": FileRecord(3, "78af5f94892f3950")}  # type: ignore[union-attr]
