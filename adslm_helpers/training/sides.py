"""Both sides of the split as a training takes them, and the trainer of whichever engine the recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..dataset.build import load_split
from ..errors import TrainingError
from ..models.loading import LoadedModel
from ..recipe import DpoRecipe
from ..run import Run
from . import trl_api
from .fast import trainer as fast_trainer
from .guided.teacher import encode_guided, make_teacher
from .label_noise import pair_weights
from .prompts import EncodedPair, EncodedPairs, encode_pairs


@dataclass(frozen=True)
class Sides:
    """The pairs of 'train' and 'eval' as ids, and what belongs to them."""

    encoded: dict[str, EncodedPairs]
    taught: dict[str, list[EncodedPair]]
    """The same pairs as a teacher reads them; empty where the method has no teacher."""
    weights: list[float] | None
    """What the loss of each training pair counts for; None: 1 each."""

    def pairs(self, side: str) -> list[EncodedPair]:
        """The usable pairs of a side."""
        return self.encoded[side].pairs


def encode_sides(run: Run, loaded: LoadedModel, recipe: DpoRecipe) -> Sides:
    """The run's pairs by this model's tokenizer; TrainingError, with the account, when none is left of a side."""
    encoded, taught = {}, {}
    rows = {side: load_split(run, side) for side in ("train", "eval")}
    for side in rows:
        if recipe.method == "preference_guided":
            encoded[side], taught[side] = encode_guided(loaded.tokenizer, rows[side], recipe, loaded.model)
        else:
            encoded[side] = encode_pairs(loaded.tokenizer, rows[side], recipe.max_length, recipe.max_prompt_length)
        if not encoded[side].pairs:
            raise _nothing_left(side, encoded[side])
    return Sides(encoded, taught, pair_weights(recipe, rows["train"], encoded["train"].kept))


def build_trainer(
    recipe: DpoRecipe, loaded: LoadedModel, sides: Sides, run: Run, callbacks: Sequence[Any]
) -> tuple[Any, list[str]]:
    """A trainer of the recipe's engine with a fresh adapter, and what there is to say of it, in words."""
    given = (
        recipe,
        loaded.plan,
        loaded.model,
        loaded.tokenizer,
        sides.pairs("train"),
        sides.pairs("eval"),
        run.training,
        callbacks,
    )
    if recipe.engine == "trl":
        return trl_api.build_trainer(*given)
    teacher = make_teacher(recipe, loaded.model, sides.taught) if sides.taught else None
    return fast_trainer.build_trainer(*given, teacher=teacher, weights=sides.weights)


def _nothing_left(side: str, encoded: EncodedPairs) -> TrainingError:
    reasons, most = "\n".join(encoded.lines(side)), encoded.dropped.most_common(1)[0][0] if encoded.dropped else ""
    cure = ("max_length を大きくするか、データを見直してください", "Raise max_length, or look at the data")
    if most.startswith("instruction"):
        cure = ("preference_text を短くするか、句点で終えてください", "Shorten preference_text, or end it with a full stop")
    return TrainingError(
        f"{side} に使える対が残りません。\n{reasons}\n→ {cure[0]}。",
        f"No usable pair is left in {side}.\n{reasons}\n-> {cure[1]}.",
    )
