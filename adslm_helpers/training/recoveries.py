"""The record of what a training did by itself, and the words for it: recoveries.jsonl, alarms, and the error when nothing is left."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import AdslmError, TrainingError
from ..models.skipped import Skipped
from ..recipe import DpoRecipe, recipe_from_dict
from ..run import Run, now
from .history import Alarm, append_row, read_history
from .remedies import Remedy

RECOVERIES = "recoveries.jsonl"


def as_recovered(recipe: DpoRecipe, recoveries: Sequence[dict]) -> DpoRecipe:
    """The recipe with the changes of earlier recoveries, so that a resumed training does not run into the same wall again."""
    changes = {name: after for row in recoveries for name, (_, after) in row["changes"].items()}
    return recipe_from_dict({**recipe.to_dict(), **changes})


def read_recoveries(run: Run) -> list[dict]:
    """The recoveries of the run's training, oldest first: step, cause, remedy, changes, words."""
    return read_history(run.training / RECOVERIES)


def record(run: Run, remedy: Remedy, before: DpoRecipe, step: int, phase: str, cause: str) -> dict:
    """Writes one recovery, before the next attempt starts: a kill in between must not lose it. Returns the row."""
    row = {
        "time": now(),
        "step": step,
        "phase": phase,
        "cause": cause,
        "remedy": remedy.kind,
        "changes": remedy.changes(before),
        "ja": remedy.ja,
        "en": remedy.en,
    }
    append_row(run.training / RECOVERIES, row)
    run.update(recoveries=read_recoveries(run))
    return row


def memory_alarm(recipe: DpoRecipe, step: int, phase: str) -> Alarm:
    """The alarm of a training that ran out of memory in this phase, with the settings under which it did."""
    where_ja, where_en = {
        "loading": ("モデルの読み込み", "loading the model"),
        "training": ("学習", "training"),
        "evaluation": ("評価", "evaluation"),
    }[phase]
    names = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_checkpointing", "max_length")
    return Alarm(
        step,
        "out_of_memory",
        "stop",
        f"{where_ja}の途中でメモリが足りなくなりました",
        f"memory ran out while {where_en}",
        {"phase": phase, **{name: getattr(recipe, name) for name in names}},
    )


def nothing_left(failure: BaseException, model: str, tried: int) -> AdslmError:
    """What to raise when no remedy is left after `tried` recoveries."""
    if isinstance(failure, AdslmError):
        again_ja = f"\n自動の復旧は {tried} 回行いました。" if tried else ""
        again_en = f"\nIt recovered by itself {tried} times before." if tried else ""
        failure.ja, failure.en = failure.ja + again_ja, failure.en + again_en
        return failure
    text = " ".join(str(failure).split())[:160]
    return TrainingError(
        f"{model} はこの機器のメモリに収まりません（{text}）。バッチ・再計算・評価のバッチはもう減らせません。チェックポイントは残っています。"
        "→ max_length を小さくするか、小さいモデルか load_in_4bit=true にしてください。",
        f"{model} does not fit into this device's memory ({text}); batch, recomputing and evaluation batch have nothing left to give. "
        "Checkpoints are kept. -> Lower max_length, or choose a smaller model or load_in_4bit=true.",
    )


def too_large(model: str) -> Skipped:
    return Skipped(model, "does_not_fit", "学習中にメモリが足りなくなりました", "it ran out of memory in training")
