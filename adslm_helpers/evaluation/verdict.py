"""One sentence on what the numbers allow to say; it can be "no gain" or "worse"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..recipe import EMBEDDED

FEW_PROMPTS = 20
PRODUCT_LOSS = 0.02


@dataclass(frozen=True)
class Verdict:
    """`code`: 'better', 'worse', 'within_noise', 'ruined' or 'too_few'."""

    code: str
    ja: str
    en: str


def verdict(metrics: dict[str, Any]) -> Verdict:
    """Reads metrics.json. Ruined text outweighs any win; an interval that holds 50 % is no gain; few prompts promise nothing."""
    said = _verdict(metrics)
    if metrics.get("model") != EMBEDDED or metrics.get("synthetic_data", True):
        return said
    return Verdict(
        said.code,
        f"{said.ja}なお、付属の教材モデルは見本の依頼しか知りません。自分のデータには MODEL でハブのモデルを選んでください。",
        f"{said.en} The embedded teaching model knows the sample briefs only: for your own data choose a hub model (MODEL).",
    )


def _verdict(metrics: dict[str, Any]) -> Verdict:
    low, high = metrics["win_rate_ci95"]
    rate = f"{metrics['win_rate']:.0%} [{low:.0%}, {high:.0%}]"
    if metrics["degenerate_tuned"] > max(0.05, 2 * metrics["degenerate_base"]):
        share = f"{metrics['degenerate_tuned']:.0%}"
        return Verdict(
            "ruined",
            f"学習後の文の {share} が壊れています（くり返し・空など）。この結果は使わないでください。",
            f"{share} of the tuned texts are broken (loops, empty, ...). Do not use this result.",
        )
    if metrics["n_prompts"] < FEW_PROMPTS:
        return Verdict(
            "too_few",
            f"検証用のプロンプトが {metrics['n_prompts']} 種類しかなく、良し悪しは言えません（勝率 {rate}）。",
            f"Only {metrics['n_prompts']} held-out prompts: too few to say whether it is better (win rate {rate}).",
        )
    base, tuned = metrics["right_product_base"], metrics["right_product_tuned"]
    if base is not None and tuned < base - PRODUCT_LOSS:
        return Verdict(
            "worse",
            f"学習後は商品名を間違えることが増えました（正しい割合 {base:.0%} → {tuned:.0%}）。レシピを見直してください。",
            f"The tuned model names the wrong product more often (right: {base:.0%} -> {tuned:.0%}). Change the recipe.",
        )
    passes = f"{metrics['rubric_pass_base']:.0%} → {metrics['rubric_pass_tuned']:.0%}"
    if low > 0.5:
        return Verdict(
            "better",
            f"良くなりました。評価基準を満たす割合 {passes}、勝率 {rate}（50 % なら差なし）。",
            f"Better: rubric passes {passes}, win rate {rate} (50 % would be no difference).",
        )
    if high < 0.5:
        return Verdict(
            "worse", f"悪くなりました。勝率 {rate}、評価基準 {passes}。", f"Worse: win rate {rate}, rubric passes {passes}."
        )
    return Verdict(
        "within_noise",
        f"差があるとは言えません。勝率 {rate} の区間に 50 % が入っています。",
        f"No measurable gain: 50 % lies inside the interval of the win rate {rate}.",
    )
