"""How sure the data itself is of its labels, told to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import TrainingError
from ..recipe import DpoRecipe

MOST_SMOOTHING = 0.499  # at one half the two sides are the same


def with_label_noise(recipe: DpoRecipe, rows: Sequence[dict]) -> tuple[DpoRecipe, list[str]]:
    """The recipe with `label_smoothing` = mean(1 - p_win) of the training rows and loss 'robust', and what was done in words.

    That is the expected share of flipped labels, which the robust loss corrects for (Chowdhury et al. 2024, arXiv:2403.00409, Eq. 14).
    Unchanged unless `recipe.use_p_win`. Raises TrainingError when a row has no `p_win` between 0.5 and 1.
    """
    if not recipe.use_p_win:
        return recipe, []
    sure = [row.get("p_win") for row in rows]
    odd = next((number for number, p in enumerate(sure, 1) if not isinstance(p, int | float) or not 0.5 <= p <= 1), None)
    if odd is not None or not sure:
        raise TrainingError(
            f"use_p_win = true ですが、学習データ {odd} 件目の p_win が {sure[odd - 1] if odd else None!r} です（0.5〜1 が必要）。"
            "→ 広告ログか投票から作った対を使うか、use_p_win を false にしてください。",
            f"use_p_win = true, but p_win of training row {odd} is {sure[odd - 1] if odd else None!r} (0.5 to 1 is needed). "
            "-> Use pairs made from an ad log or from votes, or set use_p_win to false.",
        )
    noise = min(MOST_SMOOTHING, round(sum(1 - p for p in sure) / len(sure), 4))
    words = f"ラベルの誤りの見込み / expected share of wrong labels: {noise:.1%} -> loss_type robust, label_smoothing {noise}"
    return replace(recipe, loss_type="robust", label_smoothing=noise), [words]
