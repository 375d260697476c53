"""`load_export`: an exported folder as a model again, after its files were compared with its manifest. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path

from ..copies import differing_files
from ..errors import ExportError
from ..models.loading import LoadedModel, load_named
from ..recipe import EMBEDDED, DpoRecipe
from ..run import read_json
from .publish import MANIFEST

# Loading one of these can run code.
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def load_export(folder: str | Path, base: str | None = None) -> LoadedModel:
    """The exported model in eval mode: merged/ where there is one, else adapter/ on its base, on this machine's best device.

    `base`: where the base model is, for an adapter whose base was a local folder.
    Raises ExportError when the folder is no export, lacks a file, holds a changed one or holds pickled weights; ModelError.
    """
    folder = Path(folder).expanduser()
    manifest = _manifest(folder)
    _refuse_pickles(folder)
    _refuse_changed(folder, manifest)
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
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not {"files", "merged", "base_model", "name"} <= manifest.keys():
        raise ExportError(
            f"{folder / MANIFEST} は adslm の書き出しの記録ではありません。→ export_run が書いたフォルダーを指定してください。",
            f"{folder / MANIFEST} is not the manifest of an adslm export. -> Give a folder that export_run wrote.",
        )
    return manifest


def _refuse_pickles(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.suffix.lower() in _PICKLES]
    if found:
        raise ExportError(
            f"{folder} に、読むとプログラムが動きうる形式のファイルがあります（{', '.join(found)}）。→ safetensors だけのフォルダーを使ってください。",
            f"{folder} holds files that can run code when loaded ({', '.join(found)}). -> Use a folder with safetensors only.",
        )


def _refuse_changed(folder: Path, manifest: dict) -> None:
    listed = {entry["path"] for entry in manifest["files"]}
    weights = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    needed = {"adapter/adapter_model.safetensors"} if not manifest["merged"] else {"merged/config.json"}
    wrong = sorted({*differing_files(folder, manifest["files"]), *(weights - listed), *(needed - listed)})
    if wrong:
        raise ExportError(
            f"{folder} のファイルが書き出したときと違います（{', '.join(wrong)}）。→ もう一度書き出すか、写し直してください。",
            f"Files in {folder} are not as they were exported ({', '.join(wrong)}). -> Export again, or copy the folder again.",
        )


def _base(folder: Path, manifest: dict) -> str:
    if manifest.get("base_model_is_local"):
        raise ExportError(
            f"{folder} はアダプターだけで、ベースモデル {manifest['base_model']} は手元のフォルダーでした。"
            "→ load_export(..., base='そのフォルダー') としてください。",
            f"{folder} holds an adapter only, and its base {manifest['base_model']} was a local folder. "
            "-> Call load_export(..., base='that folder').",
        )
    return manifest["base_model"]
