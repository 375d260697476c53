"""Google Colab's services (Drive, upload, secrets), each with a next step where it is refused or absent."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

from ..errors import SetupError
from ..run import write_bytes

_MOUNT_POINT = Path("/content/drive")
_log = logging.getLogger(__name__)


def on_colab() -> bool:
    """Whether this runs on Google Colab, in a notebook or in a subprocess of one."""
    # The variable reaches subprocesses; the module is loaded in every Colab kernel. Whether it is merely installed says nothing.
    return bool(os.environ.get("COLAB_RELEASE_TAG")) or "google.colab" in sys.modules


def in_notebook() -> bool:
    """Whether a Jupyter or Colab kernel runs this code (not a script, not IPython in a terminal)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def drive_folder(mount: bool = True) -> Path:
    """The user's Google Drive as a folder; on Colab it is mounted first where it is not.

    The environment variable ADSLM_DRIVE names another folder (Google Drive for desktop).
    Raises SetupError when Drive is refused, not mounted with `mount` off, or not there.
    """
    given = os.environ.get("ADSLM_DRIVE")
    if given:
        return _given_drive(given)
    folder = _MOUNT_POINT / "MyDrive"
    # drive.mount() asks for authorisation even where Drive is mounted. os.path.isdir: False, not OSError, on a broken mount.
    if os.path.isdir(folder):
        return folder
    if not on_colab():
        raise SetupError(
            "ここは Google Colab ではないため、Google ドライブに接続できません。"
            "→ パソコン版 Google ドライブのフォルダーを環境変数 ADSLM_DRIVE に書くか、"
            "書き出し先をフォルダーか zip にしてください。",
            "This is not Google Colab, so Google Drive cannot be mounted. "
            "-> Set ADSLM_DRIVE to your Google Drive for desktop folder, or export to a folder or a zip.",
        )
    if not mount:
        raise _drive_error("まだ接続していません", "it is not mounted yet")
    _mount()
    if not os.path.isdir(folder):
        raise _drive_error(f"{folder} が現れませんでした", f"{folder} did not appear")
    return folder


def upload_files(target: Path) -> list[Path]:
    """Asks for files in the browser and returns where they lie in `target`; an empty list when the user cancels.

    Colab only, else SetupError. Waits until the user answers and holds the files in memory. Names lose path parts and characters
    that some system forbids; a name that is taken gets a number, nothing is overwritten.
    """
    files = _colab_module("files")
    if files is None:
        raise SetupError(
            f"ファイルのアップロード画面は Google Colab だけで使えます。"
            f"→ ファイルを {target} に置き、その場所を DATA に書いてください。",
            f"The upload dialog exists on Google Colab only. -> Put the file into {target} and give its path as DATA.",
        )
    before = set(os.listdir())
    try:
        contents: dict[str, bytes] = files.upload()
    except _refusals() as error:
        raise SetupError(
            f"アップロードに失敗しました（{_short(error)}）。"
            "→ ブラウザーでこのノートブックを開いたまま、セルをもう一度実行してください。",
            f"The upload failed ({_short(error)}). -> Keep this notebook open in the browser and run the cell again.",
        ) from error
    paths = [write_bytes(_free_path(target, name), content) for name, content in contents.items()]
    _remove_strays(before, contents, keep=paths)
    return paths


def hf_token() -> str | None:
    """The user's Hugging Face token, from the variable HF_TOKEN or Colab's secret of that name; None where there is none.

    Neither the token nor a part of it is ever logged or put into an error. Why a secret could not be read is logged.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    userdata = _colab_module("userdata") if not token and in_notebook() else None  # it asks the browser, through the kernel
    if userdata is None:
        return token or None
    try:
        return (userdata.get("HF_TOKEN") or "").strip() or None
    except _refusals(userdata) as error:
        # The class name alone: the text of an error might hold what the front end sent.
        _log.warning(
            "Colab のシークレット HF_TOKEN を読めません（%s）。公開モデルには不要です。"
            "→ 必要なら左の鍵の印で登録し、このノートブックからのアクセスを許可してください。\n"
            "Colab's secret HF_TOKEN cannot be read (%s). Public models do not need it. "
            "-> If you do: add it under the key symbol on the left and give this notebook access.",
            *[type(error).__name__] * 2,
        )
        return None


def _given_drive(given: str) -> Path:
    folder = Path(given).expanduser()
    if not os.path.isdir(folder):
        raise SetupError(
            f"ADSLM_DRIVE のフォルダー {given!r} がありません。→ フォルダーを作るか、ADSLM_DRIVE を直してください。",
            f"ADSLM_DRIVE names {given!r}, which is no folder. -> Create it or correct ADSLM_DRIVE.",
        )
    return folder


def _mount() -> None:
    drive = _colab_module("drive")
    if drive is None:
        raise _drive_error("google.colab の drive がありません", "google.colab has no drive")
    try:
        drive.mount(str(_MOUNT_POINT))
    except _refusals() as error:
        # MessageError: the permission window was closed or refused. ValueError: the folder holds files, or a policy
        # forbids Drive. NotImplementedError: this kind of runtime has no Drive.
        raise _drive_error(_short(error), _short(error)) from error


def _drive_error(ja: str, en: str) -> SetupError:
    return SetupError(
        f"Google ドライブを使えません（{ja}）。"
        "→ セルをもう一度実行して許可するか、左の「ファイル」からドライブをマウントするか、書き出し先を zip にしてください。",
        f"Google Drive cannot be used ({en}). "
        "-> Run the cell again and allow access, or mount Drive under Files on the left, or export to a zip.",
    )


def _colab_module(name: str) -> ModuleType | None:
    """google.colab.<name>, or None away from Colab."""
    if not on_colab():
        return None
    try:
        return importlib.import_module(f"google.colab.{name}")
    except ImportError:
        return None


def _refusals(module: ModuleType | None = None) -> tuple[type[Exception], ...]:
    """What Colab's services raise when they say no; `module` may define more (userdata.NotebookAccessError stands alone)."""
    errors = getattr(_colab_module("errors"), "Error", None)
    own = [getattr(module, name, None) for name in ("SecretNotFoundError", "NotebookAccessError", "TimeoutException")]
    return (NotImplementedError, ValueError, TimeoutError, *[kind for kind in (errors, *own) if kind is not None])


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _free_path(folder: Path, name: str) -> Path:
    """A path in `folder` that is not taken, named after what the browser called the file."""
    base = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]  # macOS browsers send decomposed kana
    base = re.sub(r'[<>:"|?*\x00-\x1f\x7f]', "_", base).strip(" .") or "upload"
    path, number = folder / base, 2
    while path.exists():
        path, number = folder / f"{Path(base).stem}-{number}{Path(base).suffix}", number + 1
    return path


def _remove_strays(before: set[str], contents: dict[str, bytes], keep: list[Path]) -> None:
    """Removes the copies that Colab's dialog leaves in the working directory (a customer's data beside the notebooks)."""
    kept = {path.resolve() for path in keep}
    for name in set(os.listdir()) - before:
        path = Path(name).resolve()
        if path not in kept and path.is_file() and path.read_bytes() in contents.values():
            path.unlink()
