"""What supports a verdict, what weakens it, and what to do next: one sentence each, with its number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..text.degenerate import KINDS
from .costs import Cost
from .limits import FEW_PROMPTS, LEVEL, Words, is_ruined, witnesses

_DRIFT = (1.25, 0.8)
_RULE_WORKS = 0.8
_UNCHANGED = 0.8
_FAR = 1.0
"""Nats a token of KL from which a tuned model is far from its base (0.1 to 0.5 are usual for LoRA of one epoch)."""


def find_reasons(metrics: dict[str, Any], costs: list[Cost]) -> list[Words]:
    """The sentences behind the verdict: the evidence first, then the harms, then what makes the evidence weaker."""
    return [*_evidence(metrics), *((f"{cost.ja}。", f"{_capital(cost.en)}.") for cost in costs), *_doubts(metrics)]


def find_next_steps(code: str, metrics: dict[str, Any], costs: list[Cost]) -> list[Words]:
    """What to do now, the most urgent first."""
    steps = [*_first_steps(code, metrics), *((cost.step_ja, cost.step_en) for cost in costs)]
    if _leans_on_rule(metrics):
        rule = metrics["shortcut"]
        steps.append(
            (
                f"「{rule['name_ja']}」だけで選べないよう、データを直してください（adslm dataset --audit）。",
                f"Mend the data so that '{rule['name']}' alone does not tell the sides (adslm dataset --audit).",
            )
        )
    if code in ("better", "mixed"):
        steps.append(
            (
                "担当者に前後の文を伏せて選んでもらい（ブラインド比較）、事実と表現を確かめてから使ってください。",
                "Let the team choose blindly between before and after, and check facts and wording before any use.",
            )
        )
    return steps


def _evidence(metrics: dict[str, Any]) -> Iterator[Words]:
    low, high = metrics["win_rate_ci95"]
    if "wins_by_prompt" in metrics:
        won, tied, lost = (metrics[f"{name}_by_prompt"] for name in ("wins", "ties", "losses"))
        p = _p(metrics["sign_test_p"])
        yield (
            f"勝率 {metrics['win_rate']:.0%}（95 % 区間 {low:.0%}〜{high:.0%}）。依頼ごとに数えて {won} 勝 {tied} 分 {lost} 敗、符号検定 {p}。",
            f"Win rate {metrics['win_rate']:.0%} (95 % interval {low:.0%} to {high:.0%}). By prompt: {won} won, {tied} tied, {lost} lost; sign test {p}.",
        )
    if "rubric_gain_ci95" in metrics:
        low, high = metrics["rubric_gain_ci95"]
        noise = (
            ("、区間に 0 が入るので誤差の範囲です", ": 0 lies inside, so it is within noise") if low <= 0 <= high else ("", "")
        )
        yield (
            f"評価基準をすべて満たす文は {metrics['rubric_gain']:+.1%}（区間 {low:+.1%}〜{high:+.1%}{noise[0]}）。",
            f"Texts that pass the whole rubric: {metrics['rubric_gain']:+.1%} (interval {low:+.1%} to {high:+.1%}{noise[1]}).",
        )
    if is_ruined(metrics):
        kinds = sorted(metrics.get("degenerate_kinds_tuned", {}).items(), key=lambda kind: -kind[1])[:2]
        ja, en = (
            mark.join(f"{KINDS[kind][side]} {count}" for kind, count in kinds if kind in KINDS)
            for side, mark in enumerate(("、", ", "))
        )
        share = f"{metrics['degenerate_base']:.0%} → {metrics['degenerate_tuned']:.0%}"
        yield f"壊れた文 {share}（{ja}）。", f"Broken texts {share} ({en})."


def _doubts(metrics: dict[str, Any]) -> Iterator[Words]:
    if (groups := witnesses(metrics)) < FEW_PROMPTS:
        yield (
            f"検証用の依頼が {groups} 種類で、{FEW_PROMPTS} 種類に足りません。",
            f"{groups} held-out prompts; {FEW_PROMPTS} are the least that promise anything.",
        )
    if metrics.get("heldout_trustworthy") is False:
        yield (
            "データの監査が、学習側と検証側の重なりなどを見つけています（検証の数字は実力より良く出ます）。",
            "The audit of the dataset found the two sides of the split to overlap, or the like: held-out numbers flatter.",
        )
    ratio = metrics.get("length_ratio")
    if ratio is not None and not _DRIFT[1] <= ratio <= _DRIFT[0]:
        chars = f"{metrics['mean_chars_base']:.0f} → {metrics['mean_chars_tuned']:.0f}"
        won = metrics["win_rate"] > 0.5
        yield (
            f"文の長さが変わりました（平均 {chars} 字、{ratio:.2f} 倍）。{'勝ちの一部は長さによるかもしれません。' if won else ''}",
            f"The texts changed in length (mean {chars} characters, times {ratio:.2f}){': part of the wins may be length' if won else ''}.",
        )
    if _leans_on_rule(metrics):
        rule = metrics["shortcut"]
        inside, outside = rule["in_line"], rule["against"]
        yield (
            f"報酬の正解率は、「{rule['name_ja']}」で見分けられる対で {inside['accuracy']:.0%}、それ以外の {outside['n']} 対では {outside['accuracy']:.0%} です。見た目の規則を学んだだけかもしれません。",
            f"Reward accuracy is {inside['accuracy']:.0%} where '{rule['name']}' tells the sides and {outside['accuracy']:.0%} on the other {outside['n']} pairs: it may have learnt the surface rule.",
        )
    elif (rule := metrics.get("shortcut")) and rule["accuracy"] >= _RULE_WORKS:
        yield (
            f"検証データの対は「{rule['name_ja']}」だけで {rule['accuracy']:.0%} 見分けられます。報酬の正解率 {metrics['reward_accuracy']:.0%} は割り引いて読んでください。",
            f"'{rule['name']}' alone tells {rule['accuracy']:.0%} of the held-out pairs: read the reward accuracy of {metrics['reward_accuracy']:.0%} with that in mind.",
        )
    if (blind := metrics.get("prompt_blind_accuracy")) is not None:
        yield (
            f"この対の {blind:.0%} は、依頼を読まなくても文だけで見分けられます。報酬の正解率 {metrics['reward_accuracy']:.0%} は「依頼を読めている」証拠になりません。",
            f"{blind:.0%} of these pairs can be told without their prompt: a reward accuracy of {metrics['reward_accuracy']:.0%} is no proof that briefs are read.",
        )
    kl = metrics.get("kl_to_base")
    if kl is not None and kl > _FAR:
        yield (
            f"元のモデルから大きく離れました（KL {kl:.2f} ナット/トークン）。測っていないところが壊れているかもしれません。",
            f"Far from its base (KL {kl:.2f} nats a token): what was not measured may have broken.",
        )
    interval = metrics.get("perplexity_ratio_ci95")
    if interval and interval[0] is not None and interval[0] > 1:
        yield (
            f"検証データの chosen は、学習前より予測しにくくなりました（パープレキシティ {metrics['perplexity_ratio']:.2f} 倍）。",
            f"The held-out chosen texts became harder to foretell (perplexity times {metrics['perplexity_ratio']:.2f}).",
        )


def _first_steps(code: str, metrics: dict[str, Any]) -> Iterator[Words]:
    if code == "ruined" or code == "worse":
        yield (
            "このモデルは使わず、学習率を下げるか beta か sft_weight を上げて学習し直してください（adslm analyze が原因を挙げます）。",
            "Do not use this model: lower the learning rate, or raise beta or sft_weight, and train again (adslm analyze names causes).",
        )
    if code == "too_few":
        yield (
            f"商品・対象・訴求の違う依頼を足し、検証側に {FEW_PROMPTS} 種類以上（できれば 100 種類）置いてください。",
            f"Add briefs that differ in product, audience or selling point: at least {FEW_PROMPTS} held out, better 100.",
        )
    if code == "untrusted":
        yield (
            "adslm dataset --audit の指摘を直し（--repair）、データを作り直してから学習し直してください。",
            "Mend what adslm dataset --audit found (--repair), then build the dataset and train again.",
        )
    if code == "within_noise":
        yield from _for_noise(metrics)


def _for_noise(metrics: dict[str, Any]) -> Iterator[Words]:
    if (same := metrics.get("unchanged", 0.0)) >= _UNCHANGED:
        yield (
            f"学習前と同じ文が {same:.0%} あり、学習がほとんど効いていません。学習率かステップ数を上げてください。",
            f"{same:.0%} of the texts are the base's, word for word: the training hardly moved it. Raise the learning rate or the steps.",
        )
        return
    lead = abs(metrics["win_rate"] - 0.5)
    low, high = metrics["win_rate_ci95"]
    wide = max(high - metrics["win_rate"], metrics["win_rate"] - low)
    if 0.01 <= lead < wide:
        # The interval narrows with the root of the number of prompts; twice as many find a real lead four times in five, not two.
        needed = math.ceil(2 * metrics["n_prompts"] * (wide / lead) ** 2 / 10) * 10
        yield (
            f"この差（勝率 {metrics['win_rate']:.0%}）が本物なら、見分けるには検証用の依頼が約 {needed:,} 種類必要です（今は {metrics['n_prompts']} 種類）。",
            f"If this lead (win rate {metrics['win_rate']:.0%}) is real, about {needed:,} held-out prompts would show it (now {metrics['n_prompts']}).",
        )
    yield (
        "学習データを増やすか、学習を長くするか、別のレシピを試してください。このままでは元のモデルと同じと考えてください。",
        "More training pairs, a longer training, or another recipe. As it stands, take it to be no better than its base.",
    )


def _leans_on_rule(metrics: dict[str, Any]) -> bool:
    """Whether the reward is right where a surface rule is, and no better than a coin, by its interval, on enough other pairs."""
    rule = metrics.get("shortcut") or {}
    inside, outside = rule.get("in_line"), rule.get("against")
    if not inside or not outside or not inside["n"] or outside["n"] < 10:
        return False
    return inside["accuracy"] >= 0.8 and inside["ci95"][0] > outside["ci95"][1]


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2f}" if value >= LEVEL else f"p = {value:.4f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
