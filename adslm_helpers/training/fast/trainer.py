"""A trainer of the engine for a recipe, with the reference and the teacher looked up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...environment.device import DevicePlan
from ...environment.packages import hide_old_torchao
from ...models.loading import lora_config
from ...recipe import DpoRecipe
from ..accumulation import repair_accumulation
from ..checks import sum_limit
from ..prompts import EncodedPair
from ..settings import trainer_settings
from .dpo_trainer import trainer_class
from .head import text_config
from .items import Collator, Item, Teacher
from .layout import attention_share
from .reference import FOLDER, kept_logps, reference_logps
from .self_check import choose_forward

__all__ = ["Collator", "Item", "Teacher", "build_trainer", "reference_logps"]


def build_trainer(
    recipe: DpoRecipe,
    plan: DevicePlan,
    model: Any,
    tokenizer: Any,
    train_pairs: Sequence[EncodedPair],
    eval_pairs: Sequence[EncodedPair],
    folder: Path,
    callbacks: Sequence[Any] = (),
    teacher: Teacher | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[Any, list[str]]:
    """As `trl_api.build_trainer`: a trainer for the recipe with a fresh LoRA adapter, and what there is to say of it, in words.

    `folder`: runs/NAME/training; the reference's log-probabilities are kept beside it. `weights`: what the loss of each training pair counts
    for (`label_noise.pair_weights`); held-out pairs count 1 each. A callback with an `on_notice` hears how far the reference is.
    """
    hide_old_torchao()
    from peft import get_peft_model
    from transformers import PrinterCallback, set_seed

    model.config.use_cache = False
    set_seed(recipe.seed)  # before the adapter is made, and as TRL does
    model = get_peft_model(model, lora_config(recipe, model))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    without_dropout(model)
    sides = {"train": [Item(pair) for pair in train_pairs], "eval": [Item(pair) for pair in eval_pairs]}
    if weights is not None:
        sides["train"] = [dataclasses.replace(item, weight=w) for item, w in zip(sides["train"], weights, strict=True)]
    trainer = trainer_class()(
        recipe=recipe,
        model=model,
        args=training_arguments(trainer_settings(recipe, plan, len(train_pairs), folder)),
        data_collator=Collator(
            tokenizer.pad_token_id, attention_share=attention_share(text_config(model)), multiple=plan.pad_to_multiple_of or 1
        ),
        train_dataset=sides["train"],
        eval_dataset=sides["eval"],
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict; history.jsonl has them all
    taught = [pair for pairs in teacher.sides.values() for pair in pairs] if teacher else []
    pairs = [*train_pairs, *eval_pairs, *taught]
    forward = choose_forward(model, pairs, tokenizer.pad_token_id, trainer.compute_loss_context_manager)
    trainer.head, trainer.data_collator.shared = forward.head, forward.shared
    told = list(forward.told)
    hear = [callback.on_notice for callback in callbacks if hasattr(callback, "on_notice")]

    def say(line: str) -> None:
        for one in hear:
            one(line)

    def look_up(pairs: Sequence[EncodedPair], prefix: Any = None, reader: str = "") -> list[tuple[float, float]]:
        found, words = kept_logps(
            trainer, pairs, folder.parent / FOLDER, sum_limit(plan), prefix, lambda line: say(f"{reader}{line}")
        )
        told.extend(words)
        return found

    for side, items in sides.items():
        ready = _with_reference(items, look_up)
        if teacher:
            ready = _with_teacher(trainer, ready, teacher, side, look_up)
        setattr(trainer, f"{side}_dataset", ready)
    repair_accumulation(trainer)
    return trainer, told


def _with_reference(items: Sequence[Item], look_up: Callable) -> list[Item]:
    """The items with the reference's log-probabilities."""
    found = look_up([item.pair for item in items])
    return [dataclasses.replace(item, ref_logps=logps) for item, logps in zip(items, found, strict=True)]


def _with_teacher(trainer: Any, items: Sequence[Item], teacher: Teacher, side: str, look_up: Callable) -> list[Item]:
    """The items as the teacher reads them, and what it says where it stays as it is."""
    taught = teacher.sides[side]
    prefix = None if teacher.prefix is None else teacher.prefix.to(trainer.model.device)
    if teacher.live:
        trainer.prefix = prefix
        trainer.data_collator.virtual = 0 if prefix is None else len(prefix)
        return [dataclasses.replace(item, taught=pair) for item, pair in zip(items, taught, strict=True)]
    found = look_up(taught, prefix, "教師 / teacher: ")
    return [dataclasses.replace(item, teacher_logps=logps) for item, logps in zip(items, found, strict=True)]


def training_arguments(settings: dict[str, Any]) -> Any:
    """`transformers.TrainingArguments` of those settings that are its own; the others are the recipe's, and read from it."""
    from transformers import TrainingArguments

    fields = {known.name for known in dataclasses.fields(TrainingArguments)}
    older = {"eval_strategy": "evaluation_strategy", "use_cpu": "no_cuda"}
    named = {name if name in fields else older.get(name, name): value for name, value in settings.items()}
    return TrainingArguments(**{name: value for name, value in named.items() if name in fields}, label_names=[])


def without_dropout(model: Any) -> None:
    """Policy and reference see the same network. Beside the layers there are rates that attention reads from its module (Llama, Qwen2)."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)
