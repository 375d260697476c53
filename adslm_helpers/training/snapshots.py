"""Adapters kept on the way, and which of them a run ends with: training/snapshots/step-N, one small folder for each evaluation worth it."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..run import sha256
from .history import Alarm, read_history

HEALTH, SNAPSHOTS, WEIGHTS = "health.jsonl", "snapshots", "adapter_model.safetensors"
# A resumed run starts at a checkpoint, which may be older than the last evaluation: then the healthy one before it is needed.
_LAST_HEALTHY = 2


@dataclass(frozen=True)
class Ending:
    """What a run ends with: the adapter of `step`, from `folder`; None: the weights that are in the model already."""

    step: int
    last_step: int
    """The last evaluated step: where the training stood."""
    folder: Path | None
    start: bool
    """The untouched start: the adapter changes nothing, the run ends as the base."""
    ja: str
    en: str

    def line(self) -> str:
        """One bilingual line."""
        return f"{self.ja} / {self.en}"

    @property
    def alarm(self) -> Alarm | None:
        """What alarms.jsonl should know; None when the run ends with the weights it stopped at."""
        if self.start:
            return Alarm(self.last_step, "ended_as_base", "stop", self.ja, self.en)
        if self.step == self.last_step:
            return None
        return Alarm(self.last_step, "ended_earlier", "note", self.ja, self.en, {"ends_with": self.step})


def take_snapshot(model: Any, training: Path, step: int) -> dict[str, str]:
    """Saves the adapter of a PeftModel whole or not at all; gives its folder (relative to `training`) and the SHA-256 of its weights.

    Raises OSError when the disk is full or read-only; what was there stays.
    """
    final = training / SNAPSHOTS / f"step-{step}"
    temporary = final.with_name(f".step-{step}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # The embeddings are never trained here; left to itself peft asks the hub whether they might have been.
        model.save_pretrained(str(temporary), safe_serialization=True, save_embedding_layers=False)
        taken = sha256(temporary / WEIGHTS)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return {"folder": f"{SNAPSHOTS}/{final.name}", "sha256": taken}


def prune_snapshots(training: Path) -> None:
    """Keeps the best healthy snapshot, the last two healthy ones and the newest; removes the others and what a crash left half-written."""
    rows = evaluations(training)
    healthy = [row for row in rows if row["healthy"] is not False and row["snapshot"]]
    kept = {row["step"] for row in [*healthy[-_LAST_HEALTHY:], *rows[-1:], *([best_row(healthy)] if healthy else [])]}
    _remove(training, lambda step: step not in kept)


def drop_snapshots_after(training: Path, step: int) -> None:
    """Removes the snapshots of steps that are done again."""
    _remove(training, lambda taken: taken > step)


def best_row(rows: list[dict]) -> dict:
    """The row with the best texts; of those whose texts are as good within the noise, the one with the lowest held-out loss.

    "Within the noise": the mean difference of the rubric scores, prompt by prompt, is at most its standard error. A lower loss never
    outweighs clearly worse texts.
    """
    top = max(rows, key=lambda row: row["score"] if row["score"] is not None else -1.0)
    return min((row for row in rows if _as_good(row, top)), key=lambda row: (_loss(row), row["step"]))


def choose_ending(training: Path, best: bool) -> Ending:
    """Which adapter the run ends with, from health.jsonl: the best healthy one, or (`best` False) the last healthy one.

    A snapshot that is gone or altered does not count. With none left that is healthy, the run ends as the base and says so.
    """
    rows = evaluations(training)
    if not rows:
        ja, en = (
            "途中の文は調べていません。最後の重みで終わります。",
            "Nobody looked on the way: the run ends with its last weights.",
        )
        return Ending(0, 0, None, False, ja, en)
    last = rows[-1]["step"]
    there = [row for row in rows if row["step"] == last or _is_whole(training, row)]
    # Where nobody could look (None) nothing is known to be ill: such a step comes after every healthy one, and before the base.
    healthy = [row for row in there if row["healthy"]] or [row for row in there if row["healthy"] is None]
    if not healthy:
        return Ending(
            0, last, None, True,
            f"【重要】{len(rows)} 回の検証のどこでも文が健全でなかったため、アダプターを空に戻しました。学習前のモデルと同じです。→ learning_rate を下げ、sft_weight を 1 にして学習し直してください。",
            f"IMPORTANT: none of {len(rows)} evaluations saw healthy texts, so the adapter was emptied: the result is the base model. -> Train again with a lower learning_rate and sft_weight 1.",
        )  # fmt: skip
    row = best_row(healthy) if best else healthy[-1]
    folder = training / row["snapshot"]["folder"] if row["step"] != last or _is_whole(training, row) else None
    if row["score"] is None:
        why_ja, why_en = ("検証損失で選んだ", "by its held-out loss") if best else ("最後の", "the last one")
        why_ja, why_en = f"文は見ていませんが、{why_ja}", f"{why_en}: the texts were not looked at"
    elif best:
        why_ja, why_en = "文が最もよく、検証損失も低い", "the best texts, then the lowest held-out loss"
    else:
        why_ja, why_en = "文が健全な最後の", "the last one with healthy texts"
    return Ending(
        row["step"], last, folder, False,
        f"{why_ja}ステップ {row['step']} のアダプターで終わります（学習は {last} まで）。",
        f"The run ends with the adapter of step {row['step']} ({why_en}; training went to {last}).",
    )  # fmt: skip


def last_healthy_step(training: Path) -> float:
    """The step up to which a run may be trusted when it has to go back: infinity unless the last evaluation saw unhealthy texts."""
    rows = evaluations(training)
    if not rows or rows[-1]["healthy"] is not False:
        return math.inf
    return max((row["step"] for row in rows if row["healthy"]), default=0)


def load_ending(model: Any, ending: Ending) -> None:
    """Puts the ending's weights into the PeftModel; for the untouched start every LoRA B becomes 0, so that the adapter adds nothing.

    Raises TrainingError when the snapshot's tensors are not those of the model's adapter; the model is as before then.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    if ending.start:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or "lora_embedding_B" in name:
                    parameter.zero_()
        return
    if ending.folder is None:
        return
    weights = load_file(ending.folder / WEIGHTS)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in own.items()}:
        raise TrainingError(
            f"{ending.folder / WEIGHTS} は、このモデルのアダプターではありません。→ 学習をやり直してください（--fresh）。",
            f"{ending.folder / WEIGHTS} is not an adapter of this model. -> Train again (--fresh).",
        )
    set_peft_model_state_dict(model, weights)


def evaluations(training: Path) -> list[dict]:
    """The rows of health.jsonl but for the base's own, oldest first."""
    return [row for row in read_history(training / HEALTH) if row["step"] > 0]


def _is_whole(training: Path, row: dict) -> bool:
    taken = row.get("snapshot")
    path = training / taken["folder"] / WEIGHTS if taken else None
    return path is not None and path.is_file() and sha256(path) == taken["sha256"]


def _as_good(row: dict, top: dict) -> bool:
    if row is top or row["score"] is None or top["score"] is None:
        return row is top or row["score"] == top["score"]
    gaps = [best - own for best, own in zip(top["scores"], row["scores"], strict=True)]
    n, mean = len(gaps), sum(gaps) / len(gaps)
    if n < 2:
        return mean <= 0
    error = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (n - 1) / n)
    return mean <= error


def _loss(row: dict) -> float:
    return math.inf if row["eval_loss"] is None else row["eval_loss"]


def _remove(training: Path, unwanted: Any) -> None:
    for folder in (training / SNAPSHOTS).glob("*step-*"):
        number = folder.name.removeprefix("step-")
        if not number.isdigit() or unwanted(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
