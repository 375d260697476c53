"""One sentence on what the numbers allow to say; it can be "no gain" or "worse". And what supports it, what weakens it, what is next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..recipe import EMBEDDED
from .costs import Cost, find_costs
from .limits import FEW_PROMPTS, LEVEL, PRODUCT_LOSS, Words, is_ruined, witnesses
from .reasons import find_next_steps, find_reasons


@dataclass(frozen=True)
class Verdict:
    """`code`: 'better', 'mixed' (wins, at a price), 'worse', 'within_noise', 'ruined', 'too_few' or 'untrusted' (the dataset's audit
    says that its held-out numbers promise nothing). `reasons` and `next_steps`: (Japanese, English), each reason with its number."""

    code: str
    ja: str
    en: str
    reasons: tuple[Words, ...] = ()
    next_steps: tuple[Words, ...] = ()


def verdict(metrics: dict[str, Any]) -> Verdict:
    """Reads metrics.json. Ruined text outweighs any win; an interval that holds 50 % is no gain; few prompts promise nothing."""
    costs = find_costs(metrics)
    code, ja, en = _verdict(metrics, costs)
    if metrics.get("model") == EMBEDDED and not metrics.get("synthetic_data", True):
        ja += "なお、付属の教材モデルは見本の依頼しか知りません。自分のデータには MODEL でハブのモデルを選んでください。"
        en += " The embedded teaching model knows the sample briefs only: for your own data choose a hub model (MODEL)."
    return Verdict(code, ja, en, tuple(find_reasons(metrics, costs)), tuple(find_next_steps(code, metrics, costs)))


def _verdict(metrics: dict[str, Any], costs: list[Cost]) -> tuple[str, str, str]:
    low, high = metrics["win_rate_ci95"]
    rate = f"{metrics['win_rate']:.0%} [{low:.0%}, {high:.0%}]"
    if is_ruined(metrics):
        share = f"{metrics['degenerate_tuned']:.0%}"
        return (
            "ruined",
            f"学習後の文の {share} が壊れています（くり返し・空など）。この結果は使わないでください。",
            f"{share} of the tuned texts are broken (loops, empty, ...). Do not use this result.",
        )
    if (groups := witnesses(metrics)) < FEW_PROMPTS:
        return (
            "too_few",
            f"検証用のプロンプトが {groups} 種類しかなく、良し悪しは言えません（勝率 {rate}）。",
            f"Only {groups} held-out prompts: too few to say whether it is better (win rate {rate}).",
        )
    if metrics.get("heldout_trustworthy") is False:
        return (
            "untrusted",
            f"データの監査によると、検証データの数字は信用できません（勝率 {rate}）。良し悪しは言えません。",
            f"By the audit of the dataset its held-out numbers cannot be trusted (win rate {rate}): no promise either way.",
        )
    base, tuned = metrics["right_product_base"], metrics["right_product_tuned"]
    if base is not None and tuned < base - PRODUCT_LOSS:
        return (
            "worse",
            f"学習後は商品名を間違えることが増えました（正しい割合 {base:.0%} → {tuned:.0%}）。レシピを見直してください。",
            f"The tuned model names the wrong product more often (right: {base:.0%} -> {tuned:.0%}). Change the recipe.",
        )
    passes = f"{metrics['rubric_pass_base']:.0%} → {metrics['rubric_pass_tuned']:.0%}"
    p = metrics.get("sign_test_p")
    if (low > 0.5 or high < 0.5) and p is not None and p >= LEVEL:
        return (
            "within_noise",
            f"差があるとは言えません。勝率 {rate} ですが、勝ち負けのついた依頼が少なすぎます（符号検定 p = {p:.2f}）。",
            f"No measurable gain: win rate {rate}, but too few prompts were won or lost (sign test p = {p:.2f}).",
        )
    if low > 0.5 and costs:
        paid = (f"勝率 {rate}、評価基準を満たす割合 {passes} ですが、", f"Mixed: win rate {rate}, rubric passes {passes}, but ")
        return "mixed", f"良い面と悪い面があります。{paid[0]}{costs[0].ja}。", f"{paid[1]}{costs[0].en}."
    if low > 0.5:
        return (
            "better",
            f"良くなりました。評価基準を満たす割合 {passes}、勝率 {rate}（50 % なら差なし）。",
            f"Better: rubric passes {passes}, win rate {rate} (50 % would be no difference).",
        )
    if high < 0.5:
        return "worse", f"悪くなりました。勝率 {rate}、評価基準 {passes}。", f"Worse: win rate {rate}, rubric passes {passes}."
    return (
        "within_noise",
        f"差があるとは言えません。勝率 {rate} の区間に 50 % が入っています。",
        f"No measurable gain: 50 % lies inside the interval of the win rate {rate}.",
    )
