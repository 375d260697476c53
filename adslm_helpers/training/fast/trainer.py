"""The engine as a `transformers.Trainer`: its loop, its checkpoints, its schedule; the batch, the loss and the metrics are ours."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...environment.device import DevicePlan
from ...models.loading import lora_config
from ...recipe import DpoRecipe
from ..accumulation import repair_accumulation
from ..prompts import EncodedPair, score_rows
from ..settings import trainer_settings
from .head import tiled_head
from .layout import cost, lay_out
from .objective import aligned_losses, pair_losses, sft_loss
from .scores import score

if TYPE_CHECKING:
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Item:
    """One pair as the trainer's dataset holds it."""

    pair: EncodedPair
    ref_logps: tuple[float, float] = (0.0, 0.0)
    """Of the reference, (chosen, rejected), nats."""
    weight: float = 1.0
    taught: EncodedPair | None = None
    """The pair as the teacher reads it: the same answers behind a prompt with the instruction."""
    teacher_logps: tuple[float, float] | None = None
    """Of a teacher that stays as it is; None: the policy itself is the teacher, and reads `taught` at every step."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What preference-guided DPO needs beside the pairs (`training.guided` makes it)."""

    sides: dict[str, Sequence[EncodedPair]]
    """'train' and 'eval': the pairs with the instruction in their prompts, in the same order, with the same answers."""
    prefix: Tensor | None = None
    """[virtual, H]: learned vectors before every prompt of `sides`; None in text mode."""
    live: bool = False
    """The policy is the teacher, not the reference."""


class Collator:
    """Items to a batch: laid out in one row a pair or two, whichever is less work."""

    def __init__(self, pad_token_id: int, shared: bool = True, attention_share: float = 0.0, virtual: int = 0):
        self.pad_token_id, self.shared, self.attention_share = pad_token_id, shared, attention_share
        self.virtual = virtual
        """Learned vectors before the prompts of the teacher."""

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        pairs = [item.pair for item in items]
        batch = self.laid_out(pairs)
        batch["ref_logps"] = torch.tensor([[*item.ref_logps] for item in items]).T.reshape(-1)
        if items[0].teacher_logps is not None:
            batch["teacher_logps"] = torch.tensor([[*item.teacher_logps] for item in items]).T.reshape(-1)
        elif items[0].taught is not None:
            batch["taught"] = self.laid_out([item.taught for item in items], self.virtual)
        batch["weights"] = torch.tensor([item.weight for item in items])
        batch["scored_rows"] = score_rows(pairs)  # for whoever looks at what is scored
        return batch

    def laid_out(self, pairs: Sequence[EncodedPair], virtual: int = 0) -> dict[str, Tensor]:
        """The cheaper layout of `pairs`, for `score`."""
        work = [cost(pairs, shared, self.attention_share, virtual) for shared in (True, False)]
        return lay_out(pairs, self.pad_token_id, shared=self.shared and work[0] < work[1], virtual=virtual)


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
) -> tuple[Any, list[str]]:
    """As `trl_api.build_trainer`: a trainer for the recipe with a fresh LoRA adapter, and what there is to say of it, in words."""
    from peft import get_peft_model
    from transformers import PrinterCallback, set_seed

    told: list[str] = []
    model.config.use_cache = False
    set_seed(recipe.seed)  # before the adapter is made, and as TRL does
    model = get_peft_model(model, lora_config(recipe, model))
    _no_dropout(model)
    collator = Collator(tokenizer.pad_token_id)
    items = {"train": [Item(pair) for pair in train_pairs], "eval": [Item(pair) for pair in eval_pairs]}
    trainer = _trainer_class()(
        recipe=recipe,
        head=tiled_head(model),
        model=model,
        args=_arguments(trainer_settings(recipe, plan, len(train_pairs), folder)),
        data_collator=collator,
        train_dataset=items["train"],
        eval_dataset=items["eval"],
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for side in items:
        ready = _with_reference(trainer, items[side])
        if teacher:
            ready = _with_teacher(trainer, ready, teacher, side)
        setattr(trainer, f"{side}_dataset", ready)
    repair_accumulation(trainer)
    return trainer, told


def _with_reference(trainer: Any, items: Sequence[Item]) -> list[Item]:
    """The items with the reference's log-probabilities."""
    found = reference_logps(trainer, [item.pair for item in items])
    return [dataclasses.replace(item, ref_logps=logps) for item, logps in zip(items, found, strict=True)]


def _with_teacher(trainer: Any, items: Sequence[Item], teacher: Teacher, side: str) -> list[Item]:
    """The items as the teacher reads them, and what it says where it stays as it is."""
    taught = teacher.sides[side]
    if teacher.live:
        trainer.prefix = teacher.prefix
        trainer.data_collator.virtual = 0 if teacher.prefix is None else len(teacher.prefix)
        return [dataclasses.replace(item, taught=pair) for item, pair in zip(items, taught, strict=True)]
    found = reference_logps(trainer, taught, teacher.prefix)
    return [dataclasses.replace(item, teacher_logps=logps) for item, logps in zip(items, found, strict=True)]


def reference_logps(trainer: Any, pairs: Sequence[EncodedPair], prefix: Tensor | None = None) -> list[tuple[float, float]]:
    """(chosen, rejected) of the model with its adapter off for every pair, nats, in large batches of similar length."""
    import torch

    model, found, virtual = trainer.model, {}, 0 if prefix is None else len(prefix)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids) + len(pairs[i].chosen_ids))
    model.eval()
    with torch.no_grad(), model.disable_adapter():
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            batch = trainer._prepare_inputs(trainer.data_collator.laid_out([pairs[i] for i in chosen], virtual))
            with trainer.compute_loss_context_manager():
                logps = score(model, batch, trainer.head, prefix)[0].view(2, -1).T.tolist()
            found |= dict(zip(chosen, map(tuple, logps), strict=True))
    return [found[i] for i in range(len(pairs))]


def _arguments(settings: dict[str, Any]) -> Any:
    """`transformers.TrainingArguments` of those settings that are its own; the others are the recipe's, and read from it."""
    from transformers import TrainingArguments

    fields = {known.name for known in dataclasses.fields(TrainingArguments)}
    older = {"eval_strategy": "evaluation_strategy", "use_cpu": "no_cuda"}
    named = {name if name in fields else older.get(name, name): value for name, value in settings.items()}
    return TrainingArguments(**{name: value for name, value in named.items() if name in fields}, label_names=[])


def _no_dropout(model: Any) -> None:
    """Policy and reference see the same network, as with TRL's disable_dropout."""
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@functools.cache
def _trainer_class() -> type:
    from transformers import Trainer

    class FastDPOTrainer(Trainer):
        """One forward a batch of pairs; TRL's metric names in the logs."""

        def __init__(self, recipe: DpoRecipe, head: Any, **options: Any):
            super().__init__(**options)
            self.recipe, self.head = recipe, head
            self.prefix: Tensor | None = None
            self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            logps, mean_logits = score(model, inputs, self.head)
            loss, chosen_rewards, rejected_rewards = pair_losses(logps, inputs["ref_logps"], inputs["lengths"], self.recipe)
            loss = (loss * inputs["weights"]).mean()
            if self.recipe.sft_weight:
                loss = loss + self.recipe.sft_weight * sft_loss(logps, inputs["lengths"])
            taught = self._teacher_logps(model, inputs)
            if taught is not None:
                aligned, gaps = aligned_losses(logps, taught, self.recipe.beta)
                loss = loss + self.recipe.alpha * aligned.mean()
            chosen_logps, rejected_logps = logps.detach().chunk(2)
            chosen_logits, rejected_logits = mean_logits.chunk(2)
            self._note(
                {
                    "rewards/chosen": chosen_rewards,
                    "rewards/rejected": rejected_rewards,
                    "rewards/accuracies": (chosen_rewards > rejected_rewards).float(),
                    "rewards/margins": chosen_rewards - rejected_rewards,
                    "logps/chosen": chosen_logps,
                    "logps/rejected": rejected_logps,
                    "logits/chosen": chosen_logits,
                    "logits/rejected": rejected_logits,
                }
            )
            return (loss, {}) if return_outputs else loss

        def _teacher_logps(self, model: Any, inputs: dict[str, Any]) -> Tensor | None:
            import torch

            if "taught" not in inputs:
                return inputs.get("teacher_logps")
            with torch.no_grad():
                return score(model, inputs["taught"], self.head, self.prefix)[0]

        def _note(self, values: dict[str, Tensor]) -> None:
            store = self._metrics["train" if self.model.training else "eval"]
            for name, value in values.items():
                store[name].append(self.accelerator.gather(value.detach()).mean().item())

        def prediction_step(
            self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
        ) -> tuple[Tensor, None, None]:
            import torch

            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            return loss.detach(), None, None

        def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
            output = super().evaluation_loop(*arguments, **options)
            prefix = options.get("metric_key_prefix", "eval")
            output.metrics.update({f"{prefix}_{name}": value for name, value in self._averages("eval").items()})
            return output

        def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
            if "loss" in logs:
                logs = {**logs, **self._averages("train")}
            super().log(logs, *arguments, **options)

        def _averages(self, mode: str) -> dict[str, float]:
            found = {name: sum(values) / len(values) for name, values in self._metrics[mode].items() if values}
            self._metrics[mode].clear()
            return found

    return FastDPOTrainer
