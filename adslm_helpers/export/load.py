"""`load_export`: an exported folder as a model again, after its files were compared with its manifest. Nothing is unpickled."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..copies import differing_files
from ..errors import ExportError
from ..models.loading import LoadedModel, load_named
from ..models.tuned import ADAPTER_FILES
from ..recipe import EMBEDDED, DpoRecipe
from ..run import read_json
from ..run_names import user_path
from .public import is_local
from .publish import MANIFEST

# Loading one of these can run code.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".py", ".so", ".pyc")
# What file managers leave in a folder that they have shown.
_OF_THE_SYSTEM = ("Thumbs.db", "desktop.ini")
_LARGEST = 16 << 20
_ENTRIES = {"files": list, "merged": bool, "base_model": str, "name": str}


def load_export(folder: str | Path, base: str | None = None) -> LoadedModel:
    """The exported model in eval mode: merged/ where there is one, else adapter/ on its base, on this machine's best device.

    `base`: where the base model is, for an adapter whose base was a local folder.
    Raises ExportError when the folder is no export, lacks a file, holds a changed one or holds pickled weights; ModelError.
    """
    folder = user_path(folder)
    try:
        manifest = _manifest(folder)
        _refuse_pickles(folder)
        _refuse_changed(folder, manifest)
    except OSError as error:
        raise ExportError(
            f"{folder} を読めません（{error.strerror or error}）。→ 権限とファイルの状態を確かめるか、写し直してください。",
            f"{folder} cannot be read ({error.strerror or error}). -> Check its permissions, or copy the folder again.",
        ) from None
    # Nothing is trained: the shortest lengths, so that only the model itself has to fit.
    recipe = DpoRecipe(fallback=False, max_length=16, max_prompt_length=8, max_new_tokens=1)
    if manifest["merged"]:
        loaded = load_named(str(folder / "merged"), recipe)
    else:
        loaded = load_named(base or _base(folder, manifest), recipe, adapter=folder / "adapter")
    loaded.notes.append(f"{manifest['name']}: {manifest['base_model']} + DPO, SHA-256 OK")
    if manifest["base_model"] == EMBEDDED and loaded.name != EMBEDDED:
        loaded.notes.append("教材用のモデルです。実際の広告には使えません。/ A teaching model, not one to advertise with.")
    return loaded


def _manifest(folder: Path) -> dict:
    if not (folder / MANIFEST).is_file():
        zipped = folder.is_file()
        raise ExportError(
            f"{folder} は書き出しフォルダーではありません（{MANIFEST} がありません）。"
            f"→ {'zip を展開し、出てきたフォルダー' if zipped else 'export_run が書いたフォルダー'}を指定してください。",
            f"{folder} is no exported folder (it has no {MANIFEST}). "
            f"-> Give {'the folder that the zip unpacks to' if zipped else 'a folder that export_run wrote'}.",
        )
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).stat().st_size <= _LARGEST else None
    if not _is_manifest(manifest):
        raise ExportError(
            f"{folder / MANIFEST} は adslm の書き出しの記録ではありません。→ export_run が書いたフォルダーを指定してください。",
            f"{folder / MANIFEST} is not the manifest of an adslm export. -> Give a folder that export_run wrote.",
        )
    return manifest


def _is_manifest(manifest: Any) -> bool:
    """Whether it has the entries that are read here, each of its type, and names no file outside the folder."""
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(key), kind) for key, kind in _ENTRIES.items()):
        return False
    return all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("path"), str) and _is_inside(entry["path"])
        for entry in manifest["files"]
    )  # fmt: skip


def _is_inside(path: str) -> bool:
    parts = re.split(r"[/\\]", path)
    return not (PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or "\0" in path or {"", ".", ".."} & set(parts))


def _refuse_pickles(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.suffix.lower() in _PICKLES]
    if found:
        raise ExportError(
            f"{folder} に、読むとプログラムが動きうる形式のファイルがあります（{', '.join(found)}）。→ safetensors だけのフォルダーを使ってください。",
            f"{folder} holds files that can run code when loaded ({', '.join(found)}). -> Use a folder with safetensors only.",
        )


def _refuse_changed(folder: Path, manifest: dict) -> None:
    listed = {entry["path"] for entry in manifest["files"]}
    read = {path.relative_to(folder).as_posix() for part in ("adapter", "merged") for path in (folder / part).rglob("*")
            if not path.is_dir() and not path.name.startswith(".") and path.name not in _OF_THE_SYSTEM}  # fmt: skip
    needed = {"merged/config.json"} if manifest["merged"] else {f"adapter/{name}" for name in ADAPTER_FILES}
    wrong = sorted({*differing_files(folder, manifest["files"]), *(read - listed), *(needed - listed)})
    if wrong:
        raise ExportError(
            f"{folder} のファイルが書き出したときと違います（{', '.join(wrong)}）。→ もう一度書き出すか、写し直してください。",
            f"Files in {folder} are not as they were exported ({', '.join(wrong)}). -> Export again, or copy the folder again.",
        )


def _base(folder: Path, manifest: dict) -> str:
    if manifest.get("base_model_is_local") or is_local(manifest["base_model"]):
        raise ExportError(
            f"{folder} はアダプターだけで、ベースモデル {manifest['base_model']} は手元のフォルダーでした。"
            "→ load_export(..., base='そのフォルダー') としてください。",
            f"{folder} holds an adapter only, and its base {manifest['base_model']} was a local folder. "
            "-> Call load_export(..., base='that folder').",
        )
    return manifest["base_model"]
