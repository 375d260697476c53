"""What preference-guided DPO costs: its steps against those of plain DPO, taken in turns on one model."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...models.loading import load_model
from ...recipe import DpoRecipe
from ..fast.trainer import build_trainer, reference_logps
from .teacher import encode_guided, make_teacher


@dataclass(frozen=True)
class StepCost:
    """Processor seconds (of a GPU: seconds that pass) of a step, each list in the order it was measured, plain and guided in turns."""

    plain: list[float]
    guided: list[float]
    teacher_pass: float
    """Of the one pass in which a frozen teacher reads all pairs; 0 for a live one, which reads in every step."""
    pairs: int
    """That this pass read."""

    @property
    def ratio(self) -> float:
        """The median of guided over plain, each step against its neighbour."""
        return statistics.median(guided / plain for plain, guided in zip(self.plain, self.guided, strict=True))

    def lines(self) -> list[str]:
        """The ratio and the one pass in words, Japanese and English."""
        plain, guided = statistics.median(self.plain), statistics.median(self.guided)
        numbers = f"{guided:.3f} s / {plain:.3f} s"
        told = [
            f"1ステップの手間（指示つき ÷ 通常の DPO）/ cost of a step, guided over plain: {self.ratio:.3f}  ({numbers}, {len(self.plain)} x)"
        ]
        if self.teacher_pass:
            told.append(
                f"教師が全ペアを1回読む時間 / the teacher's one pass over {self.pairs} pairs: {self.teacher_pass:.2f} s"
                f" = {self.teacher_pass / plain:.1f} steps"
            )
        return told


def step_cost(recipe: DpoRecipe, rows: Sequence[dict], steps: int = 15) -> StepCost:
    """The cost of `steps` steps of each kind on batches of `rows`: the same model, the same pairs, the kinds in turns; the first of each
    is not counted. A step is collating, both passes and the optimizer's. Raises DataError where no row can be scored, and as loading and
    encoding do.
    """
    loaded = load_model(recipe)
    plain, taught = encode_guided(loaded.tokenizer, rows, recipe, loaded.model)
    if not plain.pairs:
        told = "\n".join(plain.lines("train"))
        raise DataError(
            f"測る対がありません。\n{told}\n→ データか max_length を見直してください。",
            f"There is no pair to measure with.\n{told}\n-> Look at the data, or raise max_length.",
        )
    teacher = make_teacher(recipe, loaded.model, {"train": taught, "eval": taught[:1]})
    with tempfile.TemporaryDirectory() as folder:
        build = (recipe, loaded.plan, loaded.model, loaded.tokenizer, plain.pairs, plain.pairs[:1], Path(folder) / "training", ())
        trainer, _ = build_trainer(*build, teacher=teacher)
        return _measured(trainer, recipe, teacher, steps)


def _measured(trainer: Any, recipe: DpoRecipe, teacher: Any, steps: int) -> StepCost:
    started = _now(trainer)
    if not teacher.live:
        reference_logps(trainer, teacher.sides["train"], teacher.prefix)
    teacher_pass = 0.0 if teacher.live else _now(trainer) - started
    trainer.create_optimizer_and_scheduler(steps)
    items, size = list(trainer.train_dataset), recipe.per_device_train_batch_size
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for step in range(steps + 1):
        batch = [items[(step * size + i) % len(items)] for i in range(size)]
        for guided in (step % 2 == 0, step % 2 == 1):  # neither is always the second, whose data are warm
            seconds[guided].append(_step(trainer, batch if guided else [_plain(item) for item in batch]))
    return StepCost(seconds[False][1:], seconds[True][1:], teacher_pass, len(items))


def _plain(item: Any) -> Any:
    return dataclasses.replace(item, taught=None, teacher_logps=None)


def _step(trainer: Any, items: Sequence[Any]) -> float:
    started = _now(trainer)
    trainer.model.train()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(items)))
    loss.backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return _now(trainer) - started


def _now(trainer: Any) -> float:
    import torch

    if trainer.args.device.type == "cpu":
        return time.process_time()  # what other programs take does not count
    if trainer.args.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
