"""The user's Google Drive as a folder: mounted where it is not, mended where it broke, and a next step for each way it can fail."""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path

from ..errors import SetupError
from ..run_names import user_path
from .colab import colab_module, in_notebook, on_colab, refusals, said

_log = logging.getLogger(__name__)

# What Colab's mount() says -> what to do. Its errors have no classes of their own; the words are those of google.colab.drive.
_CURES = (
    (
        "credential propagation",
        "セルをもう一度実行し、許可の画面で同じアカウントを選んで全項目にチェックしてください。画面が出なければ、"
        "ブラウザーのポップアップと第三者 Cookie を許可してください。",
        "Run the cell again, choose the notebook's own account and tick every permission. "
        "If no window opens, allow pop-ups and third-party cookies for this page.",
    ),
    (
        "domain policy",
        "会社の管理者が Drive の利用を止めています。管理者に相談するか、書き出し先を zip にしてください。",
        "Your organisation's administrator has switched this off: ask there, or export to a zip.",
    ),
    (
        "must not already contain files",
        "{point} に普通のファイルがあります（Drive には保存されません）。!mv {point} {point}-old で名前を変えて、もう一度実行してください。"
        "自分で用意した Drive のフォルダーなら、環境変数 ADSLM_DRIVE に書いてください。",
        "{point} holds plain files, which are not on Drive. Rename it (!mv {point} {point}-old) and run the cell again. "
        "A folder that you keep in step with Drive yourself goes into ADSLM_DRIVE.",
    ),
    (
        "timeout",
        "もう一度実行してください。続くときは、マイドライブ直下のファイルをフォルダーに分けると速くなります。",
        "Run the cell again. If it goes on: Drive is slow with many files at its top; move them into folders.",
    ),
    (
        "NotImplementedError",
        "この種類のランタイムには Drive がありません。書き出し先を zip にしてください。",
        "This kind of runtime has no Drive: export to a zip.",
    ),
)
_OTHERWISE = (
    "セルをもう一度実行して許可するか、左の「ファイル」からドライブをマウントするか、書き出し先を zip にしてください。",
    "Run the cell again and allow access, or mount Drive under Files on the left, or export to a zip.",
)


def drive_folder(mount: bool = True) -> Path:
    """The user's Google Drive as a folder; on Colab it is mounted first where it is not, and again where the connection broke.

    The environment variable ADSLM_DRIVE names another folder (Google Drive for desktop), ADSLM_MOUNT the place to mount at
    (/content/drive). Raises SetupError when Drive is refused, not there, or not mounted with `mount` off.
    """
    if given := os.environ.get("ADSLM_DRIVE"):
        return _given_drive(given)
    if not on_colab():
        raise SetupError(
            "ここは Google Colab ではないため、Google ドライブに接続できません。"
            "→ パソコン版 Google ドライブのフォルダーを環境変数 ADSLM_DRIVE に書くか、"
            "書き出し先をフォルダーか zip にしてください。",
            "This is not Google Colab, so Google Drive cannot be mounted. "
            "-> Set ADSLM_DRIVE to your Google Drive for desktop folder, or export to a folder or a zip.",
        )
    usual = _usual_point()
    mounted = _mounted_at(usual)
    point = mounted or usual
    folder = point / "MyDrive"
    broken = _trouble(folder) if mounted else None
    if mounted and broken is None:
        return folder
    if not mount or not in_notebook():
        raise _not_mounted(point, broken)
    if broken:
        _log.warning(
            "Google ドライブとの接続が切れています（%s）。つなぎ直します。Drive に保存済みのファイルは無事です。\n"
            "The connection to Google Drive is broken (%s); mounting again. Files already on Drive are safe.",
            *[broken.strerror] * 2,
        )
    _mount(point, force=broken is not None)
    if trouble := _trouble(folder):
        raise _did_not_appear(folder, trouble)
    return folder


def mounted_drive() -> Path | None:
    """Where Drive is mounted on Colab, whether its connection works or not; None elsewhere and where it is not mounted. Asks nobody."""
    return _mounted_at(_usual_point()) if on_colab() else None


def _usual_point() -> Path:
    return Path(os.environ.get("ADSLM_MOUNT") or "/content/drive")


def _given_drive(given: str) -> Path:
    folder = user_path(given)
    if not os.path.isdir(folder):  # False, not OSError, on a drive that does not answer
        raise SetupError(
            f"ADSLM_DRIVE のフォルダー {given!r} がありません。→ フォルダーを作るか、ADSLM_DRIVE を直してください。",
            f"ADSLM_DRIVE names {given!r}, which is no folder. -> Create it or correct ADSLM_DRIVE.",
        )
    return folder


def _mounted_at(usual: Path) -> Path | None:
    """Where Drive is mounted on Colab already: `usual`, or by the system's table of mounts elsewhere.

    A folder that is merely called MyDrive is no mount: whatever is copied there is gone with the session. And mounting at a second
    place would cut the first off.
    """
    import psutil

    if os.path.ismount(usual):  # False where the connection broke; the table still has it
        return usual
    return next((Path(part.mountpoint) for part in psutil.disk_partitions(all=True) if part.fstype == "fuse.drive"), None)


def _trouble(folder: Path) -> OSError | None:
    """Why `folder` cannot be used: absent, or errno 107 ("Transport endpoint is not connected") when Drive's process died."""
    try:
        os.scandir(folder).close()  # stat alone may be answered from a cache
    except OSError as error:
        return error
    return None


def _mount(point: Path, force: bool) -> None:
    drive = colab_module("drive")
    if drive is None:
        raise _error("google.colab の drive がありません", "google.colab has no drive", point)
    # mount() drives a shell by pexpect, whose time-outs are no errors of Colab's; a KeyError is a runtime without credentials.
    shell = getattr(sys.modules.get("pexpect"), "ExceptionPexpect", KeyError)
    try:
        drive.mount(str(point), force_remount=force)
    except (*refusals(), OSError, KeyError, shell) as error:
        raise _error(said(error), said(error), point) from error


def _error(ja: str, en: str, point: Path) -> SetupError:
    cures = (cure[1:] for cure in _CURES if cure[0].lower() in en.lower())
    cure_ja, cure_en = next(cures, _OTHERWISE)
    return SetupError(
        f"Google ドライブを使えません（{ja}）。→ {cure_ja.format(point=point)}",
        f"Google Drive cannot be used ({en}). -> {cure_en.format(point=point)}",
    )


def _not_mounted(point: Path, broken: OSError | None) -> SetupError:
    """Only a cell can ask the browser: a command that a cell starts (`!adslm ...`) cannot."""
    ja, en = ("接続が切れています", "its connection is broken") if broken else ("まだ接続していません", "it is not mounted yet")
    force = ", force_remount=True" if broken else ""
    code = f'from google.colab import drive; drive.mount("{point}"{force})'
    return SetupError(
        f"Google ドライブを使えません（{ja}）。→ セルで {code} を実行してから、もう一度試してください。",
        f"Google Drive cannot be used ({en}). -> Run {code} in a cell, then try again.",
    )


def _did_not_appear(folder: Path, trouble: OSError) -> SetupError:
    if trouble.errno == errno.ENOENT:
        return _error(f"{folder} が現れませんでした", f"{folder} did not appear", folder.parent)
    text = trouble.strerror or str(trouble)
    return SetupError(
        f"Google ドライブをつなぎ直しましたが、使えません（{folder}: {text}）。Drive に保存済みのファイルは無事です。"
        "→「ランタイム > セッションを再起動」のあと 01 から実行し直すか、書き出し先を zip にしてください。",
        f"Google Drive was mounted again but still fails ({folder}: {text}). Files already on Drive are safe. "
        "-> Restart the session (Runtime menu) and mount again, or export to a zip.",
    )
