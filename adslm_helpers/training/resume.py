"""What a training was started with, whether it can go on, and what becomes of it when another one takes its place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import RunError, TrainingError
from ..recipe import DpoRecipe, recipe_from_dict
from ..run import Run, read_json, sha256, write_json
from .checkpoints import last_valid, remove_checkpoint, step_of
from .guided.embeddings import FILE, embeddings_hash, keep_in_place

STARTED = "fingerprint.json"
_SIDES = ("train", "eval")


def training_fingerprint(run: Run, recipe: DpoRecipe) -> str:
    """A hash of all that decides the outcome: the recipe, both sides of the split, and the vectors that the recipe names.

    Raises RunError when a side is missing, DataError when the vectors are.
    """
    parts = [recipe.to_dict(), *_dataset(run).values(), *embeddings_hash(recipe.prompt_embeddings)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def note_start(run: Run, recipe: DpoRecipe, fingerprint: str) -> None:
    """Writes into the training folder what it is started with: the recipe as asked for, and the dataset's hashes."""
    value = {"fingerprint": fingerprint, "recipe": recipe.to_dict(), "dataset": _dataset(run)}
    value["prompt_embeddings"] = embeddings_hash(recipe.prompt_embeddings)
    write_json(run.training / STARTED, value)


def same_training(run: Run, fingerprint: str) -> bool:
    """Whether the training folder is of this fingerprint."""
    return _started(run.training).get("fingerprint") == fingerprint


def started_recipe(run: Run) -> DpoRecipe:
    """The recipe that the run's training was started with, as it was asked for: what `adslm train --resume` goes on with.

    Raises RunError when there is no training to go on with.
    """
    recipe = _started(run.training).get("recipe")
    if recipe is None:
        raise RunError(
            f"{run.path}: 続きから始められる学習がありません。→ --resume を付けずに adslm train --run {run.name} で始めてください。",
            f"{run.path}: there is no training to go on with. -> Start one without --resume: adslm train --run {run.name}.",
        )
    return recipe_from_dict(recipe)


def refuse_another(run: Run, recipe: DpoRecipe) -> str:
    """The fingerprint of the training that is there; raises TrainingError, naming what differs, unless it is of this recipe and dataset.

    A field that the recipe got since, in a newer version, counts as its default.
    """
    before = started_recipe(run).to_dict()
    started, dataset = _started(run.training), _dataset(run)
    if sides := [f"{side}.jsonl" for side in _SIDES if started["dataset"][side] != dataset[side]]:
        names = ", ".join(sides)
        raise TrainingError(
            f"{run.dataset} の {names} は、この学習を始めたあとに変わりました。別のデータでは続けられません。何も変えていません。"
            "→ 元のデータでノートブック 01 をもう一度実行するか、--resume を外してください（今の学習は横に残り、新しい学習が始まります）。",
            f"{names} in {run.dataset} changed after this training was started; it cannot go on with other data. Nothing was changed. "
            "-> Build the dataset again from the former data (notebook 01), or leave out --resume: the training is kept beside a new one.",
        )
    changed = [f"{name}: {before[name]} -> {value}" for name, value in recipe.to_dict().items() if before[name] != value]
    if changed:
        names = ", ".join(changed)
        raise TrainingError(
            f"{run.training} は別のレシピで始めた学習です（{names}）。何も変えていません。"
            "→ 元のレシピで続けるか、--resume を外してください（今の学習は横に残り、新しい学習が始まります）。",
            f"{run.training} was started with another recipe ({names}). Nothing was changed. "
            "-> Go on with the former one, or leave out --resume: the training is kept beside a new one.",
        )
    if started.get("prompt_embeddings", []) != embeddings_hash(recipe.prompt_embeddings):
        raise TrainingError(
            f"{recipe.prompt_embeddings} は、この学習を始めたあとに変わりました。別のベクトルでは続けられません。何も変えていません。"
            "→ 元のファイルに戻すか、--resume を外してください（今の学習は横に残り、新しい学習が始まります）。",
            f"{recipe.prompt_embeddings} changed after this training was started; it cannot go on with other vectors. Nothing was changed. "
            "-> Put the former file back, or leave out --resume: the training is kept beside a new one.",
        )
    return started["fingerprint"]


def bring_back(run: Run, fingerprint: str) -> list[str]:
    """Makes an unfinished training of this fingerprint, set aside for another one, the run's training again; says so in bilingual lines.

    The one that is there is set aside in its turn. Nothing is done, and nothing said, where there is no such earlier one.
    """
    if same_training(run, fingerprint):
        return []
    for folder in sorted(run.path.glob(f"{run.training.name}-*")):
        unfinished = not (folder / "result.json").is_file()
        if unfinished and _started(folder).get("fingerprint") == fingerprint:
            told = set_aside(run.training)
            if run.training.is_dir():  # nothing but vectors, which this training names too or does not use
                (run.training / FILE).replace(folder / FILE)
                run.training.rmdir()
            folder.rename(run.training)
            return [
                *told,
                f"同じレシピとデータの学習が {folder} にあったので、それに戻りました。/ Back to the same training, which was kept in {folder}.",
            ]
    return []


def free_name(training: Path) -> Path:
    """training-1, training-2, ...: the first that is free, for an earlier training to lie under."""
    number = 1
    while os.path.lexists(training.with_name(f"{training.name}-{number}")):
        number += 1
    return training.with_name(f"{training.name}-{number}")


def set_aside(training: Path) -> list[str]:
    """Moves the training that is there to training-1, training-2, ... and says so in bilingual lines; nothing that cost time is overwritten.

    Of a finished one the adapter is kept and the checkpoints are dropped; of an unfinished one the last valid checkpoint is kept. Vectors
    that lie there stay there: the next training may be told to read them.
    """
    if not training.is_dir() or not any(path.name != FILE for path in training.iterdir()):
        return []
    aside = training.rename(free_name(training))
    keep_in_place(aside, training)
    if (aside / "result.json").is_file():
        shutil.rmtree(aside / "checkpoints", ignore_errors=True)
        return [f"前の学習の結果は {aside} に残しました。/ The earlier training's result is kept in {aside}."]
    kept = last_valid(aside)
    if kept is None:
        return [
            f"前の学習（未完了、チェックポイントなし）は {aside} に移しました。/ The earlier training (unfinished, no checkpoint) is in {aside}."
        ]
    for path in [path for path in (aside / "checkpoints").iterdir() if path.is_dir() and path != kept]:
        remove_checkpoint(path)
    return [
        f"前の学習（未完了、ステップ {step_of(kept)} まで）は {kept} に残しました。"
        f"/ The earlier training (unfinished, up to step {step_of(kept)}) is kept in {kept}."
    ]


def _dataset(run: Run) -> dict[str, str]:
    hashes = {}
    for side in _SIDES:
        path = run.dataset / f"{side}.jsonl"
        if not path.is_file():
            raise RunError(
                f"{path} がありません。学習のデータが消えています。途中の学習はそのままです。→ 同じデータでノートブック 01 をもう一度実行してください。",
                f"{path} does not exist: the data of the training is gone. The training is as it was. "
                "-> Run notebook 01 again with the same data.",
            )
        hashes[side] = sha256(path)
    return hashes


def _started(training: Path) -> dict[str, Any]:
    path = training / STARTED
    value = read_json(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {"fingerprint": value}
