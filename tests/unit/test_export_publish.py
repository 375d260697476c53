import errno
import io
import os
import shutil
import zipfile

import pytest

from adslm_helpers import copies
from adslm_helpers.errors import ExportError
from adslm_helpers.export import publish
from adslm_helpers.export.publish import copy_folder, list_files, staging, write_zip


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    (source / "merged").mkdir(parents=True)
    (source / "merged" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (source / "カード.md").write_text("本文", encoding="utf-8")
    (source / "manifest.json").write_text("{}")
    return source


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_nothing_is_left_under_any_name_when_the_disk_is_full(tmp_path):
    with pytest.raises(ExportError, match=r"(?s)容量が足りず.*No space left.*merged=False"), staging(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not names(tmp_path)


def test_safetensors_own_error_counts_as_a_full_disk(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(ExportError, match="No space left"), staging(tmp_path / "out"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_an_interrupt_leaves_nothing_and_stays_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "out") as partial:
        partial.mkdir()
        raise KeyboardInterrupt
    assert not names(tmp_path)


def test_what_a_killed_export_left_does_not_get_into_the_next_one(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old.safetensors").write_bytes(b"old")
    with staging(tmp_path / "out") as partial:
        assert not partial.exists()


def test_publishing_refuses_a_name_taken_while_the_export_was_written(tmp_path, folder):
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="out"):
        publish.publish(folder, tmp_path / "out")
    assert folder.is_dir() and not names(tmp_path / "out")


def test_zip_members_lie_below_one_relative_folder(tmp_path, folder):
    write_zip(folder, tmp_path / "a.zip", "a")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == ["a/manifest.json", "a/merged/model.safetensors", "a/カード.md"]
        assert archive.read("a/カード.md").decode() == "本文"
    assert names(tmp_path) == ["a.zip", "source"]


def test_a_zip_that_cannot_be_read_back_gets_no_name(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: "a/merged/model.safetensors")
    with pytest.raises(ExportError, match=r"model\.safetensors"):
        write_zip(folder, tmp_path / "a.zip", "a")
    assert names(tmp_path) == ["source"]


def test_a_zip_is_not_written_over_another(tmp_path, folder):
    (tmp_path / "a.zip").write_bytes(b"mine")
    with pytest.raises(ExportError, match=r"a\.zip"):
        write_zip(folder, tmp_path / "a.zip", "a")
    assert (tmp_path / "a.zip").read_bytes() == b"mine"


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_a_copy_that_differs_gets_no_name(tmp_path, folder, monkeypatch, damage):
    pour = copies._pour

    def damaged(stream, target, beat):
        content = stream.read()
        wrong = content[:-1] if damage == "short" else bytes([content[0] ^ 1]) + content[1:]
        return pour(io.BytesIO(wrong if target.suffix == ".safetensors" else content), target, beat)

    monkeypatch.setattr(copies, "_pour", damaged)
    with pytest.raises(ExportError, match=r"merged/model\.safetensors"):
        copy_folder(folder, tmp_path / "drive" / "out")
    assert not names(tmp_path / "drive")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left for"),
        (errno.EDQUOT, "No space left for"),
        (errno.EROFS, "Read-only"),
        (errno.EIO, "I/O|Input"),
    ],
    ids=errno.errorcode.get,
)
def test_a_drive_that_fails_half_way_gets_no_half_a_copy(tmp_path, folder, monkeypatch, number, said):
    pour = copies._pour

    def fail(stream, target, beat):
        if target.name == "manifest.json":  # the last one
            raise OSError(number, os.strerror(number), str(target))
        return pour(stream, target, beat)

    monkeypatch.setattr(copies, "_pour", fail)
    with pytest.raises(ExportError, match=said) as caught:
        copy_folder(folder, tmp_path / "drive" / "out")
    assert "→" in caught.value.ja and "partial files were removed" in caught.value.en
    assert not names(tmp_path / "drive") and names(folder) == ["manifest.json", "merged", "カード.md"]


def test_a_drive_that_died_is_named_and_what_it_may_hold_is_not_said_to_be_removed(tmp_path, folder, monkeypatch):
    """Errno 107 on everything: the cleaning fails as well and must not hide the first error."""

    def dead(*_arguments, **_keywords):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(copies, "_pour", dead)
    monkeypatch.setattr(shutil, "rmtree", dead)
    with pytest.raises(ExportError, match="Transport endpoint") as caught:
        copy_folder(folder, tmp_path / "drive" / "out")
    for text in (caught.value.ja, caught.value.en):
        assert ".out.partial" in text
    assert "removed. ->" not in caught.value.en and "消しました" not in caught.value.ja
    assert not (tmp_path / "drive" / "out").exists()


def test_a_copy_holds_the_manifest_too(tmp_path, folder):
    copy_folder(folder, tmp_path / "drive" / "out")
    assert names(tmp_path / "drive") == ["out"]
    assert names(tmp_path / "drive" / "out") == ["manifest.json", "merged", "カード.md"]


def test_list_files_has_portable_names_and_leaves_the_manifest_out(folder):
    assert [entry["path"] for entry in list_files(folder)] == ["merged/model.safetensors", "カード.md"]
