"""A large effective batch on few pairs: an epoch of one or two optimizer steps, of which nobody was warned."""

from __future__ import annotations

import math

from ..recipe import DpoRecipe
from .settings import total_steps

ENOUGH_STEPS = 10


def few_steps(recipe: DpoRecipe, n_pairs: int) -> list[str]:
    """One bilingual line when `n_pairs` training pairs make fewer than 10 optimizer steps by epochs, else [].

    Steps that were asked for by `max_steps` are taken as meant.
    """
    steps = total_steps(recipe, n_pairs)
    if recipe.max_steps > 0 or steps >= ENOUGH_STEPS:
        return []
    batch = recipe.per_device_train_batch_size
    effective = batch * recipe.gradient_accumulation_steps
    epochs = f"{recipe.num_train_epochs:g}"
    accumulation = max(1, math.floor(recipe.num_train_epochs * n_pairs / ENOUGH_STEPS / batch))
    if accumulation >= recipe.gradient_accumulation_steps:  # too few pairs, whatever the accumulation: more passes over them
        wanted = f"num_train_epochs={math.ceil(ENOUGH_STEPS * recipe.num_train_epochs / steps)}"
    else:
        wanted = f"gradient_accumulation_steps={accumulation}"
    return [
        f"【注意】学習の対は {n_pairs} 組、実効バッチは {effective} なので、{epochs} エポックで {steps} ステップしか進みません"
        f"（学習率の上がり始めで終わります）。→ --set {wanted} なら 10 ステップほどになります。"
        f" / NOTE: {n_pairs} training pairs at an effective batch of {effective} make {steps} steps in {epochs} epochs, hardly more than the "
        f"warm-up. -> --set {wanted} makes about 10."
    ]
