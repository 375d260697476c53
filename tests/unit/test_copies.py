"""Copies that are whole or absent. What happens at each single file operation that fails: test_copies_faults.py."""

import errno
import io
import os

import pytest

from adslm_helpers import copies
from adslm_helpers.copies import (
    checked_entries,
    copy_folder,
    differing_files,
    discard,
    list_files,
    make_folders,
    partial_name,
    place_file,
    sweep,
)  # fmt: skip
from adslm_helpers.errors import CopyError


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "weights.safetensors").write_bytes(bytes(range(256)) * 40)
    (source / "カード.md").write_text("本文", encoding="utf-8")
    (source / "empty").touch()
    return source


@pytest.fixture
def drive(tmp_path):
    (tmp_path / "drive").mkdir()
    return tmp_path / "drive"


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_differing_files_sees_size_content_absence_and_a_folder_in_the_place_of_a_file(folder):
    files = list_files(folder)
    assert [entry["path"] for entry in files] == ["deep/weights.safetensors", "empty", "カード.md"] and not differing_files(
        folder, files
    )
    content = (folder / "deep" / "weights.safetensors").read_bytes()
    (folder / "deep" / "weights.safetensors").write_bytes(content[:-1] + b"!")
    (folder / "カード.md").unlink()
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    assert differing_files(folder, files) == ["deep/weights.safetensors", "empty", "カード.md"]


def test_a_folder_is_copied_whole_and_never_over_another(folder, drive):
    files = list_files(folder)
    copy_folder(folder, drive / "out", files)
    assert not differing_files(drive / "out", files) and names(drive) == ["out"]
    with pytest.raises(FileExistsError):
        copy_folder(folder, drive / "out", files)
    assert not differing_files(drive / "out", files) and names(drive) == ["out"]


def test_a_source_that_changed_since_it_was_listed_gets_no_name(folder, drive):
    files = list_files(folder)
    (folder / "カード.md").write_text("別の文", encoding="utf-8")
    with pytest.raises(CopyError, match=r"カード\.md"):
        copy_folder(folder, drive / "out", files)
    assert not names(drive)


def test_a_file_is_replaced_only_by_a_whole_one(drive, monkeypatch):
    target = drive / "history.jsonl"
    assert place_file(io.BytesIO(b"one\n"), target)["bytes"] == 4
    monkeypatch.setattr(copies, "sha256", lambda path, beat: "another")
    with pytest.raises(CopyError):
        place_file(io.BytesIO(b"one\ntwo\n"), target)
    assert target.read_bytes() == b"one\n" and names(drive) == ["history.jsonl"]


def test_a_drive_that_was_unmounted_does_not_come_back_as_a_plain_folder(tmp_path):
    """A plain /content/drive/MyDrive is lost with the machine and in the way of the next mount."""
    with pytest.raises(FileNotFoundError):
        make_folders(tmp_path / "MyDrive" / "adslm" / "runs", below=tmp_path / "MyDrive")
    assert not names(tmp_path)


def test_what_is_discarded_loses_its_name_first(folder, drive, monkeypatch):
    copy_folder(folder, drive / "old", list_files(folder))

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(copies.shutil, "rmtree", fail)
    with pytest.raises(OSError, match="old"):
        discard(drive / "old")
    assert names(drive) == [".old.partial"]
    monkeypatch.undo()
    sweep(drive)
    discard(drive / "never there")
    assert not names(drive)


def test_sweeping_takes_temporary_names_only(drive):
    for name in (".a.partial", ".keep", "a.partial", "b"):
        (drive / name).touch()
    partial_name(drive / "c").mkdir()
    sweep(drive)
    assert names(drive) == [".keep", "a.partial", "b"]


def test_a_file_system_without_fsync_is_no_error_and_a_failing_disk_is(drive, monkeypatch):
    def fsync(number):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copies.os, "fsync", lambda handle: fsync(errno.ENOSYS))
    place_file(io.BytesIO(b"x"), drive / "x")
    monkeypatch.setattr(copies.os, "fsync", lambda handle: fsync(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        place_file(io.BytesIO(b"y"), drive / "y")
    assert names(drive) == ["x"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "c:\\x", "a\\..\\x", "nul\0", 3, None])
def test_a_listing_cannot_name_a_place_outside_its_folder(path):
    assert checked_entries([{"path": path, "bytes": 1, "sha256": "0"}]) is None


@pytest.mark.parametrize("value", [None, {}, "x", [3], [{"path": "a"}], [{"path": "a", "bytes": 1}]])
def test_what_is_no_listing_is_none(value):
    assert checked_entries(value) is None


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "x" * 300, "absent", "file/below"])
def test_a_listed_name_that_no_file_has_or_can_have_is_one_that_differs(tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    assert copies.differing_files(tmp_path, [{"path": name, "bytes": 1, "sha256": ""}]) == [name]
