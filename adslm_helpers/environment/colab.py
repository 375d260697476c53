"""Google Colab: whether this is one, and its file dialogs, with a next step where they are refused or absent."""

from __future__ import annotations

import importlib
import os
import re
import sys
import unicodedata
from pathlib import Path
from types import ModuleType

from ..errors import SetupError
from ..foreign_text import harmless
from ..run import write_bytes


def on_colab() -> bool:
    """Whether this runs on Google Colab, in a notebook or in a subprocess of one."""
    # The variable reaches subprocesses; the module is loaded in every Colab kernel. Whether it is merely installed says nothing.
    return bool(os.environ.get("COLAB_RELEASE_TAG")) or "google.colab" in sys.modules


def in_notebook() -> bool:
    """Whether a Jupyter or Colab kernel runs this code (not a script, not IPython in a terminal)."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def upload_files(target: Path) -> list[Path]:
    """Asks for files in the browser and returns where they lie in `target`; an empty list when the user cancels.

    Colab only, else SetupError. Waits until the user answers and holds the files in memory. Names lose path parts and characters
    that some system forbids; a name that is taken gets a number, nothing is overwritten.
    """
    files = colab_module("files")
    if files is None:
        raise SetupError(
            f"ファイルのアップロード画面は Google Colab だけで使えます。"
            f"→ ファイルを {target} に置き、その場所を DATA に書いてください。",
            f"The upload dialog exists on Google Colab only. -> Put the file into {target} and give its path as DATA.",
        )
    before = set(os.listdir())
    try:
        contents: dict[str, bytes] = files.upload()
    except refusals() as error:
        raise SetupError(
            f"アップロードに失敗しました（{said(error)}）。"
            "→ ブラウザーでこのノートブックを開いたまま、セルをもう一度実行してください。",
            f"The upload failed ({said(error)}). -> Keep this notebook open in the browser and run the cell again.",
        ) from error
    paths = [write_bytes(_free_path(target, name), content) for name, content in contents.items()]
    _remove_strays(before, contents, keep=paths)
    return paths


def download_file(path: Path) -> None:
    """Hands `path` to the browser as a download; needs a Colab notebook, else SetupError with the place where the file lies."""
    files = colab_module("files") if in_notebook() else None
    if files is None:
        raise SetupError(
            f"ブラウザーでの受け取りは Google Colab のノートブックだけで使えます。→ ファイルは {path} にあります。",
            f"Downloads through the browser exist in a Google Colab notebook only. -> The file lies at {path}.",
        )
    try:
        files.download(str(path))
    except (*refusals(), OSError) as error:
        raise SetupError(
            f"{path} を受け取れません（{said(error)}）。→ 左の「ファイル」から右クリックでダウンロードしてください。",
            f"{path} cannot be downloaded ({said(error)}). -> Right-click it under Files on the left and download it there.",
        ) from error


def colab_module(name: str) -> ModuleType | None:
    """google.colab.<name>, or None away from Colab."""
    if not on_colab():
        return None
    try:
        return importlib.import_module(f"google.colab.{name}")
    except ImportError:
        return None


def refusals(module: ModuleType | None = None) -> tuple[type[Exception], ...]:
    """What Colab's services raise when they say no; `module` may define more (userdata.NotebookAccessError stands alone)."""
    errors = getattr(colab_module("errors"), "Error", None)
    own = [getattr(module, name, None) for name in ("SecretNotFoundError", "NotebookAccessError", "TimeoutException")]
    return (NotImplementedError, ValueError, TimeoutError, *[kind for kind in (errors, *own) if kind is not None])


def said(error: Exception) -> str:
    """An error of Colab on one line of at most 200 characters, with its class."""
    return harmless(" ".join(f"{type(error).__name__}: {error}".split()))[:200]


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
