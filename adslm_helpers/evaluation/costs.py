"""What a gain was paid with: harms that are larger than noise, each with its number and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .limits import LEAST, LEAST_CHRF, is_worse


@dataclass(frozen=True)
class Cost:
    """One harm beyond noise: what it is, and the step that answers it, each in Japanese and English."""

    code: str
    ja: str
    en: str
    step_ja: str
    step_en: str


def find_costs(metrics: dict[str, Any]) -> list[Cost]:
    """The harms in metrics.json that are beyond noise: breaches, disobedience, memorised texts, sameness, lost key terms."""
    found = []
    if is_worse(metrics, "breach"):
        rules = _most(metrics.get("breach_errors_tuned", {}), metrics.get("breach_errors_base", {}))
        found.append(
            Cost(
                "breaches",
                f"広告ルールに反する文が {_change(metrics, 'breach')} に増えました{f'（{rules}）' if rules else ''}",
                f"texts that break an ad rule rose {_change(metrics, 'breach')}{f' ({rules})' if rules else ''}",
                "学習データの chosen からルールに反する文を除いて（adslm dataset --audit）学習し直してください。",
                "Take texts that break the rules out of the chosen side (adslm dataset --audit), then train again.",
            )
        )
    if is_worse(metrics, "obedience", sign=-1):
        found.append(
            Cost(
                "obedience",
                f"依頼の条件（商品名・訴求・文字数）を守る割合が {_change(metrics, 'obedience')} に下がりました",
                f"the share of stated conditions kept (product, selling point, length) fell {_change(metrics, 'obedience')}",
                "chosen が依頼の条件を守っているか監査し、学習率を下げるか SFT の重み（sft_weight）を上げてください。",
                "Audit whether chosen texts keep their briefs; lower the learning rate or raise sft_weight.",
            )
        )
    reference = metrics.get("memorised_reference") or 0.0
    if is_worse(metrics, "memorised") and metrics["memorised_tuned"] > reference + LEAST:
        found.append(
            Cost(
                "memorised",
                f"学習データの丸写し（95 % 以上同じ文）が {_change(metrics, 'memorised')} に増えました（検証用の chosen では {reference:.0%}）",
                f"texts copied from the training data (95 % alike) rose {_change(metrics, 'memorised')} (the held-out chosen texts: {reference:.0%})",
                "エポック数を減らすか、異なる chosen を増やしてください。",
                "Train fewer epochs, or use more distinct chosen texts.",
            )
        )
    if is_worse(metrics, "self_chrf", LEAST_CHRF):
        before, after = metrics["self_chrf_base"], metrics["self_chrf_tuned"]
        found.append(
            Cost(
                "sameness",
                f"違う依頼への文が互いに似てきました（文どうしの chrF {before:.0f} → {after:.0f}）",
                f"answers to different briefs grew alike (chrF among the texts {before:.0f} → {after:.0f})",
                "beta を上げるか学習を短くし、chosen の言い回しを増やしてください。",
                "Raise beta or train for a shorter time, and vary the wording of the chosen texts.",
            )
        )
    elif is_worse(metrics, "identical_answers") and metrics["identical_answers_tuned"] > LEAST + metrics.get(
        "identical_reference", 0.0
    ):
        found.append(
            Cost(
                "sameness",
                f"別の依頼に同じ文を返す割合が {_change(metrics, 'identical_answers')} に増えました",
                f"the same text for two briefs rose {_change(metrics, 'identical_answers')}",
                "beta を上げるか学習を短くし、chosen の言い回しを増やしてください。",
                "Raise beta or train for a shorter time, and vary the wording of the chosen texts.",
            )
        )
    if is_worse(metrics, "keywords", sign=-1):
        found.append(
            Cost(
                "keywords",
                f"質問の要点の語を挙げる割合が {_change(metrics, 'keywords')} に下がりました",
                f"the share of key terms named in answers to questions fell {_change(metrics, 'keywords')}",
                "質問と答えの組（adtech の見本など）を学習データに加えてください。",
                "Add pairs of questions and answers (the adtech sample, for instance) to the training data.",
            )
        )
    return found


def _change(metrics: dict[str, Any], name: str) -> str:
    return f"{metrics[f'{name}_base']:.0%} → {metrics[f'{name}_tuned']:.0%}"


def _most(after: dict[str, int], before: dict[str, int]) -> str:
    """The rules that grew most, at most three."""
    grown = sorted(((after[rule] - before.get(rule, 0), rule) for rule in after), reverse=True)
    return ", ".join(f"{rule} +{count}" for count, rule in grown[:3] if count > 0)
