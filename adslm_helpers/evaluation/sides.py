"""What two sets of texts differ in beyond the rubric: rule breaches, diversity, memorised training texts, named key terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..text.ad_rules import find_breaches
from ..text.answers import judge_answer
from ..text.brief import prompt_text
from ..text.degenerate import identical_answers
from ..text.diversity import chrf_of_pairs, distinct_n, draw_pairs
from ..text.memorised import find_memorised
from .compare import SIDES
from .intervals import with_interval

FindBreaches = Callable[..., Sequence[Any]]


def side_metrics(rows: Sequence[dict], training: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """All of this module for the rows of comparisons.jsonl; `training`: the pairs that the model was trained on."""
    return {
        **breach_metrics(rows, seed=seed),
        **diversity_metrics(rows, seed),
        **identical_reference(training),
        **memorised_metrics(rows, (row[side] for row in training for side in ("chosen", "rejected")), seed),
        **keyword_metrics(rows, seed),
    }


def breach_metrics(rows: Sequence[dict], find: FindBreaches = find_breaches, seed: int = 0) -> dict[str, Any]:
    """breach_base and _tuned: share of the ads that break a rule of severity 'error'; breach_difference; breach_errors_*: {rule: texts}
    for those, and breach_rules_*: for breaches of every severity. A review aid, not legal advice.

    `find`: as `text.ad_rules.find_breaches`. No rate, and no rule, where no prompt asks for an ad.
    """
    ads = [row for row in rows if row.get("is_ad", True)]
    found: dict[str, Any] = {}
    flags: dict[str, list[float]] = {}
    for side in SIDES:
        broken = [{(b.rule, b.severity) for b in find(row[side], brief=prompt_text(row["prompt"]))} for row in ads]
        flags[side] = [float(any(severity == "error" for _, severity in rules)) for rules in broken]
        counts = Counter(rule for rules in broken for rule in {name for name, _ in rules})
        errors = Counter(rule for rules in broken for rule, severity in rules if severity == "error")
        found |= {f"breach_rules_{side}": dict(counts.most_common()), f"breach_errors_{side}": dict(errors.most_common())}
    return found | _both_sides("breach", flags, [str(row["prompt"]) for row in ads], seed)


def diversity_metrics(rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """distinct_1_* and distinct_2_* (character n-grams), self_chrf_* (0-100, mean likeness of 200 pairs of answers to different
    prompts) and self_chrf_difference over the same pairs; identical_answers_difference."""
    prompts = [str(row["prompt"]) for row in rows]
    pairs = draw_pairs(prompts, seed)
    found: dict[str, Any] = {}
    likeness: dict[str, list[float]] = {}
    for side in SIDES:
        texts = [row[side] for row in rows]
        for n in (1, 2):
            share = distinct_n(texts, n)
            found[f"distinct_{n}_{side}"] = None if share is None else round(share, 4)
        likeness[side] = chrf_of_pairs(texts, pairs)
        found[f"self_chrf_{side}"] = round(sum(likeness[side]) / len(pairs), 2) if pairs else None
    # Two pairs that share a prompt are not quite independent; grouped by their first text they nearly are.
    changes = [after - before for before, after in zip(likeness["base"], likeness["tuned"], strict=True)]
    found |= with_interval("self_chrf_difference", changes, [prompts[i] for i, _ in pairs], seed)
    repeated = {side: identical_answers(prompts, [row[side] for row in rows]) for side in SIDES}
    same = [(row["tuned"].strip() in repeated["tuned"]) - (row["base"].strip() in repeated["base"]) for row in rows]
    return found | with_interval("identical_answers_difference", same, prompts, seed)


def identical_reference(training: Sequence[dict]) -> dict[str, Any]:
    """identical_reference: the share of the training's chosen texts that stand for two prompts. Briefs that differ in audience or channel
    alone are rightly answered alike now and then: only what is above the data's own rate is sameness."""
    if not training:
        return {}
    texts = [row["chosen"] for row in training]
    repeated = identical_answers([str(row["prompt"]) for row in training], texts)
    return {"identical_reference": round(sum(text.strip() in repeated for text in texts) / len(texts), 4)}


def memorised_metrics(rows: Sequence[dict], training: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """memorised_base and _tuned: share of texts that are a training text (chosen or rejected) word for word or 95 % alike;
    verbatim_*: word for word; memorised_reference: the same share of the held-out chosen texts themselves, which no model wrote.

    Short ads resemble each other: only what is above both the base and the reference is learnt by heart.
    """
    training = list(training)
    prompts = [str(row["prompt"]) for row in rows]
    found: dict[str, Any] = {}
    flags: dict[str, list[float]] = {}
    for side in SIDES:
        kinds = find_memorised([row[side] for row in rows], training)
        flags[side] = [float(kind is not None) for kind in kinds]
        found[f"verbatim_{side}"] = round(kinds.count("verbatim") / len(kinds), 4)
    references = {str(row["prompt"]): row["reference"] for row in rows if row["reference"]}
    kinds = find_memorised(list(references.values()), training)
    found |= with_interval("memorised_reference", [float(kind is not None) for kind in kinds], list(references), seed)
    return found | _both_sides("memorised", flags, prompts, seed)


def keyword_metrics(rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """keywords_base and _tuned: share of the key terms of a question that its answer names; empty where no row has `keywords`."""
    asked = [row for row in rows if row.get("keywords")]
    if not asked:
        return {}
    shares = {side: [judge_answer(row["keywords"], row[side]) for row in asked] for side in SIDES}
    return {
        "n_keyword_texts": len(asked),
        **_both_sides("keywords", shares, [str(row["prompt"]) for row in asked], seed),
    }


def _both_sides(name: str, values: dict[str, list[float]], prompts: list[str], seed: int) -> dict[str, Any]:
    """The mean of each side, and the mean of the differences of each text's two sides, with intervals by prompt."""
    found: dict[str, Any] = {}
    for side in SIDES:
        found |= with_interval(f"{name}_{side}", values[side], prompts, seed)
    changes = [after - before for before, after in zip(values["base"], values["tuned"], strict=True)]
    return found | with_interval(f"{name}_difference", changes, prompts, seed)
