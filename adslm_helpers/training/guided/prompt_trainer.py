"""The engine's trainer with vectors before the prompts in place of an adapter: PEFT holds them, the forward is the base model's own."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...dataset.build import load_split
from ...environment.packages import hide_old_torchao
from ...errors import TrainingError
from ...models.loading import LoadedModel
from ...recipe import DpoRecipe
from ...run import Run
from ..accumulation import repair_accumulation
from ..checks import sum_limit
from ..fast import trainer as fast_trainer
from ..fast.dpo_trainer import trainer_class
from ..fast.items import Collator, Item
from ..fast.reference import FOLDER, kept_logps
from ..fast.scores import score
from ..fast.self_check import choose_forward
from ..history import HISTORY
from ..prompts import EncodedPair, EncodedPairs, encode_pairs
from ..settings import trainer_settings
from .teacher import positions_of

if TYPE_CHECKING:
    from torch import Tensor

VIRTUAL_TOKENS = 16
"""Where nobody says otherwise. More, as long as a whole instruction, did no better on the embedded model."""
MOST_TOKENS = 1024


def vectors(model: Any) -> Tensor:
    """[T, H], with gradient while they are trained: what a `PeftModel` puts before every prompt."""
    return model.get_prompt(batch_size=1)[0]


def build_prompt_trainer(
    run: Run, folder: Path, recipe: DpoRecipe, loaded: LoadedModel, asked: dict[str, Any], say: Callable[[str], None] | None
) -> tuple[Any, dict[str, EncodedPairs], list[str]]:
    """A trainer of the vectors that `asked` names, both sides of the split as it reads them, and what there is to say, in words.

    The reference is the model without vectors. Raises TrainingError where no pair is left, and at the first number that is not finite.
    """
    from transformers import PrinterCallback, set_seed

    from ..callbacks import HistoryCallback

    hide_old_torchao()
    loaded.model.config.use_cache = False
    set_seed(recipe.seed)
    model, notes = _with_vectors(loaded, asked)
    fast_trainer.without_dropout(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    number = len(vectors(model))
    sides = {side: _encoded(run, side, loaded, recipe, number) for side in ("train", "eval")}
    settings = trainer_settings(recipe, loaded.plan, len(sides["train"].pairs), folder)
    items = {side: [Item(pair) for pair in encoded.pairs] for side, encoded in sides.items()}
    trainer = _trainer_class()(
        recipe=recipe,
        model=model,
        args=fast_trainer.training_arguments({**settings, "output_dir": str(folder), "save_strategy": "no"}),
        data_collator=_collator_class()(loaded.tokenizer.pad_token_id, virtual=number),
        train_dataset=items["train"],
        eval_dataset=items["eval"],
        callbacks=[HistoryCallback(folder / HISTORY), _progress(say)],
    )
    trainer.remove_callback(PrinterCallback)
    known = [pair for encoded in sides.values() for pair in encoded.pairs]
    base, pad = model.get_base_model(), loaded.tokenizer.pad_token_id
    forward = choose_forward(base, known, pad, trainer.compute_loss_context_manager)
    trainer.head, trainer.data_collator.shared = forward.head, forward.shared
    notes += forward.told
    for side, found in items.items():
        pairs = [item.pair for item in found]
        logps, words = kept_logps(trainer, pairs, run.path / FOLDER, sum_limit(loaded.plan), None, say)
        notes += words
        setattr(trainer, f"{side}_dataset", [Item(pair, ref_logps=row) for pair, row in zip(pairs, logps, strict=True)])
    repair_accumulation(trainer)
    return trainer, sides, notes


def _with_vectors(loaded: LoadedModel, asked: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model as PEFT's, with vectors to train before its prompts, and what there is to say of them."""
    from peft import PromptEncoderConfig, PromptTuningConfig, get_peft_model

    text, number = asked["text"], asked["virtual_tokens"]
    if asked["kind"] == "p_tuning":
        size = loaded.model.get_input_embeddings().weight.shape[1]
        config = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=number or VIRTUAL_TOKENS, encoder_hidden_size=size)
        return get_peft_model(loaded.model, config), []
    if not text:
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=number or VIRTUAL_TOKENS)
        return get_peft_model(loaded.model, config), []
    ids = loaded.tokenizer(text)["input_ids"]
    number, notes = number or min(len(ids), MOST_TOKENS), []
    if len(ids) > number:
        kept = loaded.tokenizer.decode(ids[:number])
        notes = [
            f"出発点の文は {len(ids)} トークンで、先頭の {number} だけを使います: {kept} / the text was cut to {number} of {len(ids)} tokens"
        ]
    with tempfile.TemporaryDirectory() as here:  # PEFT reads the tokenizer by its name: not from the hub, nor in another version
        loaded.tokenizer.save_pretrained(here)
        options = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": text, "tokenizer_name_or_path": here}
        model = get_peft_model(loaded.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=number, **options))
    model.peft_config["default"].tokenizer_name_or_path = loaded.name
    return model, notes


def _encoded(run: Run, side: str, loaded: LoadedModel, recipe: DpoRecipe, number: int) -> EncodedPairs:
    """The pairs that fit with `number` vectors before them; the others counted."""
    positions = positions_of(loaded.model)
    encoded = encode_pairs(loaded.tokenizer, load_split(run, side), recipe.max_length, recipe.max_prompt_length)
    fitting = [pair for pair in encoded.pairs if number + len(pair.prompt_ids) + _longest(pair) <= positions]
    if missing := len(encoded.pairs) - len(fitting):
        encoded.dropped["response_too_long"] += missing
    if not fitting:
        reasons = "\n".join(encoded.lines(side))
        raise TrainingError(
            f"{side} に使える対が残りません。\n{reasons}\n→ max_length を大きくするか、virtual_tokens を減らすか、データを見直してください。",
            f"No usable pair is left in {side}.\n{reasons}\n-> Raise max_length, take fewer virtual_tokens, or look at the data.",
        )
    return replace(encoded, pairs=fitting)


def _longest(pair: EncodedPair) -> int:
    return max(len(pair.chosen_ids), len(pair.rejected_ids))


@functools.cache
def _trainer_class() -> type:
    import torch

    class PromptTrainer(trainer_class()):
        """The engine's trainer; what is tuned are the vectors before the prompts, and the forward is the base model's own."""

        def answer_logps(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
            logps, mean_logits = score(self.model.get_base_model(), inputs, self.head, vectors(self.model))
            if not bool(torch.isfinite(logps).all()):
                raise not_finite(self.recipe, self.state.global_step)
            return logps, mean_logits

    return PromptTrainer


@functools.cache
def _collator_class() -> type:
    import torch

    class PromptCollator(Collator):
        """Batches with places for the vectors before every prompt."""

        def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
            batch = self.laid_out([item.pair for item in items], self.virtual)
            batch["ref_logps"] = torch.tensor([[*item.ref_logps] for item in items]).T.reshape(-1)
            batch["weights"] = torch.tensor([item.weight for item in items])
            return batch

    return PromptCollator


def _progress(say: Callable[[str], None] | None) -> Any:
    """Tells how far the vectors are at every evaluation."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict | None = None, **kwargs: Any) -> None:
            if say and metrics:
                say(
                    f"ステップ / step {state.global_step}/{state.max_steps}: 検証損失 / eval loss {metrics['eval_loss']:.3f}, "
                    f"正解率 / accuracy {metrics['eval_rewards/accuracies']:.3f}"
                )

    return Progress()


def not_finite(recipe: DpoRecipe, step: int = 0) -> TrainingError:
    """What to tell a user whose vectors give numbers that are not finite."""
    lower = f"{recipe.learning_rate / 10:g}"
    return TrainingError(
        f"ベクトルの学習で有限でない数が出ました（ステップ {step}、学習率 {recipe.learning_rate:g}、精度 {recipe.dtype}）。何も残していません。"
        f"→ --learning-rate {lower} か --set dtype=float32 でもう一度実行してください。",
        f"Training the vectors gave numbers that are not finite (step {step}, learning rate {recipe.learning_rate:g}, dtype {recipe.dtype}). "
        f"Nothing was kept. -> Run it again with --learning-rate {lower}, or with --set dtype=float32.",
    )
