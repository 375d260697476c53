"""What `adslm check` was asked to try: an adapter or a model, in a run, a checkpoint, an export or a folder of another tool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError, RunError
from ..models.tiny import embedded_model_path
from ..recipe import EMBEDDED
from ..run import Run
from .run_files import newest_checkpoint, object_in
from .sources import named_run, placed, run_around, unknown
from .weights import PICKLES, refuse_pickle

ADAPTER, MODEL = "adapter_config.json", "config.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Target:
    """A folder with weights, and what it takes to load them."""

    folder: Path
    run: Run | None
    """The run that it lies in."""
    base: str | None
    """Hub id, folder or 'embedded-tiny' of an adapter's base; None: the folder is a whole model."""


def find_target(where: str | Path, base: str | None = None) -> Target:
    """The newest weights of what was named; `base` overrides where the base of an adapter is.

    RunError where nothing has this name or no weights are in it; ModelError for pickles, and for a base that cannot be told.
    """
    text = str(where)
    named = named_run(text)
    path = named.path if named else placed(text)
    if path.is_file():
        if path.suffix.lower() in PICKLES:
            raise refuse_pickle(path)
        path = path.parent
    run, folder = named or run_around(path), path
    if not folder.is_dir():
        raise unknown(text)
    found = _weights_in(folder)
    if found is None:
        raise RunError(
            f"{folder} にチェックポイントもモデルもありません（{ADAPTER} か {MODEL} が要ります）。→ 学習が最初の保存まで進んだか、フォルダーの名前を確かめてください。",
            f"{folder} holds neither a checkpoint nor a model ({ADAPTER} or {MODEL} is needed). -> See whether the training came to its first save, and check the name.",
        )
    if not (found / ADAPTER).is_file():
        return Target(found, run, None)
    return Target(found, run, base or _base_of(found, run))


def _weights_in(folder: Path) -> Path | None:
    """The folder itself, the finished adapter of a run, the parts of an export, else its newest checkpoint."""
    places = [folder, folder / "training" / "adapter", folder / "adapter", folder / "merged"]
    for place in places:
        if (place / ADAPTER).is_file() or (place / MODEL).is_file():
            return place
    newest = [newest_checkpoint(place) for place in (folder, folder / "checkpoints", folder / "training" / "checkpoints")]
    return next((checkpoint.path for checkpoint in newest if checkpoint), None)


def _base_of(adapter: Path, run: Run | None) -> str:
    """The base as the run knows it, else as the export or the adapter names it."""
    model = object_in(run.path / "manifest.json").get("model") if run else None
    if isinstance(model, dict) and isinstance(model.get("name"), str):
        return model["name"]
    name = object_in(adapter.parent / "manifest.json").get("base_model") or object_in(adapter / ADAPTER).get(
        "base_model_name_or_path"
    )
    if not isinstance(name, str) or not name:
        name = ""
    if name == EMBEDDED or Path(name).name == embedded_model_path().name:
        return EMBEDDED
    if name and (Path(name).expanduser().is_dir() or _HUB_ID.fullmatch(name)):
        return name
    raise ModelError(
        f"{adapter / ADAPTER} のベースモデル {name or '(なし)'} がこの環境にありません。→ --base に、ハブの名前かモデルのフォルダーを指定してください。",
        f"The base model of {adapter / ADAPTER}, {name or '(none)'}, is not here. -> Name a hub id or a model folder with --base.",
    )
