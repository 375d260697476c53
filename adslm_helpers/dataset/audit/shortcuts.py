"""Ways to tell chosen from rejected without reading the brief: a surface feature, letters alone, length."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from ..surface import surface_rules
from .finding import Finding, pair_examples
from .probe import prompt_blind_probe
from .words import finding

# facts of the shortcut audit: human preference between ad paraphrases reaches 0.67-0.78 with one-feature rules
RULE_WARN, RULE_ERROR = 0.80, 0.95
PROBE_WARN, PROBE_ERROR = 0.85, 0.95
FEW_PAIRS = 30  # below, one of thousands of rules fits by chance
MOST_PAIRS = 20_000
"""A sample of so many gives the accuracy of a rule to within 0.7 points (two standard errors at 0.5)."""
_MOST_CHARACTERS, _LEAST_ROWS = 3_000_000, 200  # long texts are sampled more thinly: it is their characters that take the time
_LENGTH_RATIO = (1.5, 3.0)


def find_surface_rule(rows: Sequence[dict]) -> Finding | None:
    """One surface feature (length, a mark, an ending, a share of letters) that tells the sides apart."""
    looked, sampled = sample(rows, MOST_PAIRS)
    rules = surface_rules(looked, least=RULE_WARN)
    if not rules:
        return None
    best, few = rules[0], len(rows) < FEW_PAIRS
    severity = "info" if few else "error" if best.accuracy >= RULE_ERROR else "warn"
    # The best of each kind: a set that is told apart by one mark is told apart by much that comes with it.
    shown = list({rule.kind: rule for rule in reversed(rules)}.values())
    shown.sort(key=rules.index)
    ja = "、".join(f"{rule.name_ja}（多い方が {rule.side}: {rule.accuracy:.1%}）" for rule in shown[:4])
    en = ", ".join(f"{rule.name} (more of it is {rule.side}: {rule.accuracy:.1%})" for rule in shown[:4])
    note = (f"（{len(rows)}行だけなので偶然かもしれません）", f" (with {len(rows)} rows it may be chance)") if few else sampled
    return finding(
        "surface_rule", severity, best.accuracy,
        f"中身を読まなくても見た目だけで chosen と rejected を見分けられます: {ja}{note[0]}。",
        f"Surface alone tells chosen from rejected: {en}{note[1]}.",
        pair_examples(looked, range(len(looked))),
    )  # fmt: skip


def find_prompt_blind(rows: Sequence[dict]) -> Finding | None:
    """Whether letters alone, without the prompt, tell the sides apart (`probe.prompt_blind_probe`)."""
    probe = prompt_blind_probe(rows)
    if probe is None or probe.accuracy < PROBE_WARN:
        return None
    ja = "、".join(f"「{letters}」→ {side}" for letters, side in probe.telling)
    en = ", ".join(f"'{letters}' -> {side}" for letters, side in probe.telling)
    part = (f"（{probe.pairs:,}対の標本）", f" (a sample of {probe.pairs:,} pairs)") if probe.pairs < len(rows) else ("", "")
    return finding(
        "prompt_blind", "error" if probe.accuracy >= PROBE_ERROR else "warn", probe.accuracy,
        f"プロンプトを見ない判定器が、文字の並びだけで未知の対の {probe.accuracy:.1%} を当てます{part[0]}。手がかり: {ja}。",
        f"A judge that never sees the prompt is right about {probe.accuracy:.1%} of unseen pairs by their letters{part[1]}. "
        f"It goes by: {en}.",
        pair_examples(rows, range(len(rows))),
    )  # fmt: skip


def find_length_imbalance(rows: Sequence[dict], tokenizer: Any = None) -> Finding | None:
    """Whether one side is much longer, in characters or, with a tokenizer, in tokens: the worse of the two counts."""
    ratios = {("文字", "characters"): _ratio([[len(row[side]) for row in rows] for side in ("chosen", "rejected")])}
    if tokenizer is not None:
        looked = sample(rows, MOST_PAIRS)[0]
        texts = [[row[side] for row in looked] for side in ("chosen", "rejected")]
        counts = [[len(ids) for ids in tokenizer(column, add_special_tokens=False)["input_ids"]] for column in texts]
        ratios["トークン", "tokens"] = _ratio(counts)
    ratio = max(ratios.values(), key=lambda value: abs(math.log(value)))
    factor = max(ratio, 1 / ratio)
    if factor < _LENGTH_RATIO[0]:
        return None
    longer, side = ("chosen", 1) if ratio > 1 else ("rejected", -1)
    counted = [(ja, en, value**side) for (ja, en), value in ratios.items()]
    apart = sorted(range(len(rows)), key=lambda n: side * (len(rows[n]["rejected"]) - len(rows[n]["chosen"])))
    return finding(
        "length_imbalance", "error" if factor >= _LENGTH_RATIO[1] else "warn", round(ratio, 4),
        f"{longer} の方が平均で長いです（{'、'.join(f'{ja}数で {value:.1f} 倍' for ja, _, value in counted)}）。",
        f"{longer} is longer on average ({', '.join(f'{value:.1f} times in {en}' for _, en, value in counted)}).",
        pair_examples(rows, apart[:3]),
    )  # fmt: skip


def sample(rows: Sequence[dict], most: int) -> tuple[Sequence[dict], tuple[str, str]]:
    """At most so many of the rows, in their order, drawn by a fixed seed; and the words that say so where some were left out.

    Fewer where the answers are long: about three million characters, and 200 rows at least.
    """
    characters = sum(len(row["chosen"]) + len(row["rejected"]) for row in rows)
    most = min(most, max(_LEAST_ROWS, len(rows) * _MOST_CHARACTERS // max(1, characters)))
    if len(rows) <= most:
        return rows, ("", "")
    numbers = sorted(random.Random(0).sample(range(len(rows)), most))
    return [rows[number] for number in numbers], (f"（{most:,}行の標本で）", f" (in a sample of {most:,} rows)")


def _ratio(lengths: list[list[int]]) -> float:
    chosen, rejected = (max(1, sum(column)) for column in lengths)
    return chosen / rejected
