"""Drive in every state that Colab knows, with the stand-in of tests/fake_colab: each gets a next step in both languages."""

import errno
import json
import os
import sys
from types import SimpleNamespace

import psutil
import pytest

from adslm_helpers.environment import drive
from adslm_helpers.environment.drive import drive_folder
from adslm_helpers.errors import SetupError


@pytest.fixture(autouse=True)
def no_mounts(monkeypatch):
    """What the machine of the tests has mounted does not matter; `show(point)` makes the system say that Drive is mounted there."""
    table = []
    monkeypatch.setattr(psutil, "disk_partitions", lambda all=False: table if all else [])
    return lambda point: table.append(SimpleNamespace(fstype="fuse.drive", mountpoint=str(point)))


def mounts(colab):
    """The calls of drive.mount() so far."""
    path = colab.root / "calls.jsonl"
    calls = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    return [call for call in calls if call["call"] == "drive.mount"]


def refusal(**options):
    with pytest.raises(SetupError) as caught:
        drive_folder(**options)
    assert "→" in caught.value.ja and "->" in caught.value.en
    return caught.value


def break_down(monkeypatch, folder, times):
    """Opening `folder` fails `times` times as after the death of Drive's process."""
    real, left = os.scandir, [times]

    def scandir(path="."):
        if os.fspath(path) == str(folder) and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(folder))
        return real(path)

    monkeypatch.setattr(drive.os, "scandir", scandir)


def test_drive_is_mounted_where_it_is_not(colab):
    assert drive_folder() == colab.drive_folder and colab.drive_folder.is_dir()
    assert mounts(colab) == [{"call": "drive.mount", "mountpoint": str(colab.point), "force_remount": False}]


def test_mounted_drive_is_used_without_asking_the_user_again(colab, no_mounts):
    colab.drive_folder.mkdir(parents=True)
    no_mounts(colab.point)
    assert drive_folder() == colab.drive_folder == drive_folder(mount=False)
    assert mounts(colab) == []


def test_mount_of_another_kind_in_the_usual_place_is_used_as_it_is(colab, monkeypatch):
    """A local runtime in a container has its folder there; a new name of the file system must not ask the user again."""
    colab.drive_folder.mkdir(parents=True)
    monkeypatch.setattr(drive.os.path, "ismount", lambda path: path == colab.point)
    assert drive_folder() == colab.drive_folder and mounts(colab) == []


def test_drive_that_the_user_mounted_elsewhere_is_used_there(colab, no_mounts, tmp_path):
    """A second mount would end the process of the first."""
    (tmp_path / "gdrive" / "MyDrive").mkdir(parents=True)
    no_mounts(tmp_path / "gdrive")
    assert drive_folder() == tmp_path / "gdrive" / "MyDrive"
    assert mounts(colab) == []


def test_plain_folder_with_the_name_of_drive_is_not_taken_for_it(colab):
    """Made by a copy before the mount: its contents vanish with the session, and would look as if they were saved."""
    colab.drive_folder.mkdir(parents=True)
    (colab.drive_folder / "export.zip").write_bytes(b"not on Drive")
    error = refusal()
    assert "must not already contain files" in error.en and f"mv {colab.point} {colab.point}-old" in error.en
    assert f"mv {colab.point} {colab.point}-old" in error.ja and "Drive には保存されません" in error.ja


def test_drive_mounted_in_a_way_that_the_table_does_not_show_is_used(colab):
    colab.drive.mount(str(colab.point))
    assert drive_folder() == colab.drive_folder


@pytest.mark.parametrize(
    ("state", "said", "next_step_ja", "next_step_en"),
    [
        ("refused", "MessageError: Error: credential propagation was unsuccessful", "全項目にチェック", "tick every permission"),
        ("policy", "domain policy has disabled", "管理者", "administrator"),
        ("timeout", "timeout during initial read", "フォルダーに分ける", "into folders"),
        ("failed", "ValueError: mount failed", "書き出し先を zip", "export to a zip"),
        ("unsupported", "NotImplementedError", "この種類のランタイム", "kind of runtime"),
        ("absent", "did not appear", "書き出し先を zip", "export to a zip"),
    ],
)
def test_every_way_to_fail_has_its_own_next_step(colab, monkeypatch, state, said, next_step_ja, next_step_en):
    monkeypatch.setenv("FAKE_COLAB_DRIVE", state)
    error = refusal()
    assert said in error.en and next_step_ja in error.ja and next_step_en in error.en
    assert len(mounts(colab)) == 1


def test_shell_that_does_not_answer_and_runtime_without_credentials_are_no_tracebacks(colab, monkeypatch):
    class ExceptionPexpect(Exception):  # as in pexpect: no relative of Colab's errors
        pass

    class TIMEOUT(ExceptionPexpect):
        pass

    monkeypatch.setitem(sys.modules, "pexpect", SimpleNamespace(ExceptionPexpect=ExceptionPexpect))
    for error in (TIMEOUT("Timeout exceeded.\n<pexpect.popen_spawn.PopenSpawn object>"), KeyError("TBE_EPHEM_CREDS_ADDR")):
        monkeypatch.setattr(colab.drive, "mount", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert type(error).__name__ in refusal().en


def test_mistake_of_our_own_is_not_taken_for_a_refusal(colab, monkeypatch):
    monkeypatch.setattr(colab.drive, "mount", lambda point: None)  # no force_remount: a TypeError
    with pytest.raises(TypeError):
        drive_folder()


def test_broken_connection_is_mounted_again_and_said(colab, no_mounts, monkeypatch, caplog):
    colab.drive.mount(str(colab.point))
    no_mounts(colab.point)
    break_down(monkeypatch, colab.drive_folder, times=1)
    assert drive_folder() == colab.drive_folder
    assert mounts(colab)[-1]["force_remount"] is True
    assert "not connected" in caplog.text and "無事" in caplog.text and "are safe" in caplog.text


def test_connection_that_stays_broken_gets_a_next_step(colab, no_mounts, monkeypatch):
    colab.drive.mount(str(colab.point))
    no_mounts(colab.point)
    break_down(monkeypatch, colab.drive_folder, times=9)
    error = refusal()
    assert "無事" in error.ja and "再起動" in error.ja and "are safe" in error.en and "Restart the session" in error.en
    error = refusal(mount=False)
    assert "broken" in error.en and "force_remount=True" in error.ja and "force_remount=True" in error.en


def test_command_that_a_cell_starts_cannot_ask_the_browser_and_says_what_to_run(colab, monkeypatch):
    monkeypatch.setattr(drive, "in_notebook", lambda: False)
    error = refusal()
    assert f'drive.mount("{colab.point}")' in error.en and "not mounted yet" in error.en and mounts(colab) == []


def test_mounting_can_be_ruled_out(colab):
    assert "not mounted yet" in refusal(mount=False).en and mounts(colab) == []


def test_away_from_colab_there_is_no_drive_to_mount(monkeypatch):
    for name in ("COLAB_RELEASE_TAG", "ADSLM_DRIVE"):
        monkeypatch.delenv(name, raising=False)
    assert "ADSLM_DRIVE" in refusal().en


def test_own_drive_folder_wins_and_must_exist(colab, monkeypatch, tmp_path):
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path))
    assert drive_folder() == tmp_path and mounts(colab) == []
    monkeypatch.setenv("ADSLM_DRIVE", str(tmp_path / "typo"))
    assert "typo" in refusal().en


def test_mount_point_is_content_drive_unless_told_otherwise(colab, monkeypatch):
    asked = []
    monkeypatch.delenv("ADSLM_MOUNT")
    monkeypatch.setattr(colab.drive, "mount", lambda point, force_remount: asked.append(point))
    refusal()
    assert asked == ["/content/drive"]
