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
    sure = _sureness("use_p_win", rows)
    noise = min(MOST_SMOOTHING, round(sum(1 - p for p in sure) / len(sure), 4))
    words = f"ラベルの誤りの見込み / expected share of wrong labels: {noise:.1%} -> loss_type robust, label_smoothing {noise}"
    return replace(recipe, loss_type="robust", label_smoothing=noise), [words]


def pair_weights(recipe: DpoRecipe, rows: Sequence[dict], kept: Sequence[int]) -> list[float] | None:
    """What the loss of each training pair counts for: 2 p_win - 1 over its mean, so that the learning rate means what it meant before.

    2 p - 1 is what is left of a vote of p : 1 - p when its two sides are taken off against each other; a coin flip counts nothing.
    `rows`: of the training side; `kept`: of each pair the index of its row (`EncodedPairs.kept`). None unless `recipe.weight_by_p_win`.
    Raises TrainingError when a row has no `p_win` between 0.5 and 1, or all are coin flips.
    """
    if not recipe.weight_by_p_win:
        return None
    sure = _sureness("weight_by_p_win", rows)
    counts = [2 * sure[index] - 1 for index in kept]
    mean = sum(counts) / len(counts) if counts else 0.0
    if mean == 0:
        raise TrainingError(
            "weight_by_p_win = true ですが、学習に使う対の p_win がすべて 0.5 で、重みがすべて 0 になります。"
            "→ 広告ログか投票を増やすか、weight_by_p_win を false にしてください。",
            "weight_by_p_win = true, but p_win is 0.5 for every pair to train on: all weights would be 0. "
            "-> Collect more of the log or more votes, or set weight_by_p_win to false.",
        )
    return [count / mean for count in counts]


def _sureness(switch: str, rows: Sequence[dict]) -> list[float]:
    """p_win of every row; raises TrainingError, naming the row, where it is no number between 0.5 and 1."""
    sure = [row.get("p_win") for row in rows]
    odd = next((number for number, p in enumerate(sure, 1) if not isinstance(p, int | float) or not 0.5 <= p <= 1), None)
    if odd is not None or not sure:
        raise TrainingError(
            f"{switch} = true ですが、学習データ {odd} 件目の p_win が {sure[odd - 1] if odd else None!r} です（0.5〜1 が必要）。"
            f"→ 広告ログか投票から作った対を使うか、{switch} を false にしてください。",
            f"{switch} = true, but p_win of training row {odd} is {sure[odd - 1] if odd else None!r} (0.5 to 1 is needed). "
            f"-> Use pairs made from an ad log or from votes, or set {switch} to false.",
        )
    return sure
