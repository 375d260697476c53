"""What a set of pairs looks like, and what is wrong with it as a whole: numbers, a table, findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..text.brief import parse_brief, whole_prompt
from .split import prompt_key
from .surface import Rule, surface_rules
from .validate import SIDES

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Finding", "Rule", "dataset_warnings", "describe", "describe_table", "surface_rules"]

# facts of the shortcut audit: human preference between ad paraphrases reaches 0.67-0.78 with one-feature rules
RULE_WARN, RULE_ERROR = 0.80, 0.95
FEW_PAIRS = 30  # below, one of thousands of rules fits by chance
FEW_PROMPTS = FEW_GROUPS = 20
_FEW_ANSWERS = (0.05, 0.01)
_LENGTH_RATIO = (1.5, 3.0)


@dataclass(frozen=True)
class Finding:
    """One thing to know before training; severity 'error' (the model will learn the wrong thing), 'warn' or 'info'."""

    code: str
    severity: str
    number: float
    ja: str
    en: str

    def to_dict(self) -> dict:
        return asdict(self)


def describe(rows: list[dict], tokenizer: Any = None) -> dict:
    """Counts and lengths of pair rows, as plain JSON values.

    `chars` and, with a tokenizer, `tokens` (no special tokens) hold min, median, mean, p95 and max for each column;
    `length_ratio` is the mean length of chosen / rejected; `chosen_longer` the share of pairs with the longer chosen.
    """
    assert rows, "describe needs at least one row"
    texts = {side: [whole_prompt(row[side]) for row in rows] for side in SIDES}
    triples = set(zip(*texts.values(), strict=True))
    chars = {side: [len(text) for text in column] for side, column in texts.items()}
    stats = {
        "rows": len(rows),
        "distinct": {**{side: len(set(column)) for side, column in texts.items()}, "triple": len(triples)},
        "duplicates": len(rows) - len(triples),
        "chars": {side: _summary(lengths) for side, lengths in chars.items()},
        "length_ratio": {"chars": _ratio(chars)},
        "chosen_longer": _share(left > right for left, right in zip(chars["chosen"], chars["rejected"], strict=True)),
    }
    if tokenizer is not None:
        tokens = {side: _token_lengths(column, tokenizer) for side, column in texts.items()}
        stats["tokens"] = {side: _summary(lengths) for side, lengths in tokens.items()}
        stats["length_ratio"]["tokens"] = _ratio(tokens)
    return stats


def describe_table(stats: dict) -> DataFrame:
    """`describe` as a table: a line for each column and unit."""
    import pandas

    lines = {
        (side, unit): {"distinct": stats["distinct"][side], **stats[unit][side]}
        for unit in ("chars", "tokens")
        if unit in stats
        for side in SIDES
    }
    table = pandas.DataFrame.from_dict(lines, orient="index")
    table.index = pandas.MultiIndex.from_tuples(lines, names=["column", "unit"])
    return table


def dataset_warnings(
    rows: list[dict], split: tuple[list[dict], list[dict]] | None = None, dropped_duplicates: int = 0
) -> list[Finding]:
    """What will go wrong when a model learns from `rows`, the worst first.

    `split` is (train, eval); `dropped_duplicates` counts exact copies that are no longer in `rows`.
    """
    found = [
        _few_prompts(rows),
        *(_few_answers(rows, side) for side in ("chosen", "rejected")),
        _surface(rows),
        _obedience(rows),
        _length_imbalance(rows),
        _duplicates(rows, dropped_duplicates),
        _reversed(rows),
        *([_few_groups(split[1]), _answers_on_both_sides(*split)] if split else []),
    ]
    order = ("error", "warn", "info")
    return sorted((finding for finding in found if finding), key=lambda finding: order.index(finding.severity))


def _few_prompts(rows: list[dict]) -> Finding | None:
    number = len({prompt_key(row["prompt"]) for row in rows})
    if number >= FEW_PROMPTS:
        return None
    return Finding(
        "few_prompts", "warn", number,
        f"異なるプロンプトが {number} 種類だけです（{len(rows)}行）。モデルは依頼の読み方を学べません。"
        f"→ 商品・対象・訴求の違う依頼を {FEW_PROMPTS} 種類以上に増やしてください。",
        f"Only {number} distinct prompt(s) in {len(rows)} rows: the model cannot learn to read a brief. "
        f"-> Use at least {FEW_PROMPTS} prompts that differ in product, audience or selling point.",
    )  # fmt: skip


def _few_answers(rows: list[dict], side: str) -> Finding | None:
    number = len({row[side] for row in rows})
    share = number / len(rows)
    if share >= _FEW_ANSWERS[0]:
        return None
    return Finding(
        f"few_{side}", "error" if share < _FEW_ANSWERS[1] else "warn", number,
        f"異なる {side} が {number} 種類だけです（{len(rows)}行の {share:.1%}）。モデルはその文を丸ごと覚えれば済みます。"
        f"→ 行ごとに違う {side} を用意してください。",
        f"Only {number} distinct {side} texts ({share:.1%} of {len(rows)} rows): the model need only memorise them. "
        f"-> Give each row a {side} text of its own.",
    )  # fmt: skip


def _surface(rows: list[dict]) -> Finding | None:
    rules = surface_rules(rows, least=RULE_WARN)
    if not rules:
        return None
    best, few = rules[0], len(rows) < FEW_PAIRS
    severity = "info" if few else "error" if best.accuracy >= RULE_ERROR else "warn"
    ja = "、".join(f"{rule.name_ja}（多い方が {rule.side}: {rule.accuracy:.1%}）" for rule in rules[:3])
    en = ", ".join(f"{rule.name} (more of it is {rule.side}: {rule.accuracy:.1%})" for rule in rules[:3])
    chance = (f"（{len(rows)}行だけなので偶然かもしれません）", f" (with {len(rows)} rows it may be chance)") if few else ("", "")
    return Finding(
        "surface_rule", severity, best.accuracy,
        f"中身を読まなくても見た目だけで chosen と rejected を見分けられます: {ja}{chance[0]}。モデルは良し悪しでなくこれを学びます。"
        "→ 両側の見た目（記号・末尾・長さ）をそろえてください。",
        f"Surface alone tells chosen from rejected: {en}{chance[1]}. The model learns this instead of quality. "
        "-> Match marks, endings and lengths of the two sides.",
    )  # fmt: skip


def _obedience(rows: list[dict]) -> Finding | None:
    """Length limits that the prompts state: kept by chosen and by rejected."""
    briefs = {prompt_key(row["prompt"]): row["prompt"] for row in rows}
    briefs = {key: parse_brief(prompt) for key, prompt in briefs.items()}
    fits: dict[str, list[bool]] = {"chosen": [], "rejected": []}
    for row in rows:
        for side, kept in fits.items():
            answer = briefs[prompt_key(row["prompt"])].length_fits(row[side])
            kept.extend([] if answer is None else [answer])
    if not fits["chosen"]:
        return None
    chosen, rejected = _share(fits["chosen"]), _share(fits["rejected"])
    if chosen >= 0.9 and chosen >= rejected - 0.05:
        return None
    return Finding(
        "length_disobeyed", "error" if chosen < rejected - 0.2 else "warn", chosen,
        f"プロンプトの文字数指定を守るのは chosen の {chosen:.0%}、rejected の {rejected:.0%} です（{len(fits['chosen'])}行）。"
        "モデルは指定を破ることを学びます。→ 指定を守る文を chosen にしてください。",
        f"The length stated in the prompt is kept by {chosen:.0%} of chosen and {rejected:.0%} of rejected "
        f"({len(fits['chosen'])} rows): the model learns to break it. -> Choose texts that keep it.",
    )  # fmt: skip


def _length_imbalance(rows: list[dict]) -> Finding | None:
    ratio = _ratio({side: [len(row[side]) for row in rows] for side in ("chosen", "rejected")})
    factor = max(ratio, 1 / ratio)
    if factor < _LENGTH_RATIO[0]:
        return None
    longer = "chosen" if ratio > 1 else "rejected"
    direction = ("長く", "longer") if ratio > 1 else ("短く", "shorter")
    return Finding(
        "length_imbalance", "error" if factor >= _LENGTH_RATIO[1] else "warn", ratio,
        f"{longer} の方が平均で {factor:.1f} 倍長いです。モデルは内容より先に{direction[0]}書くことを学びます。"
        "→ 両側の長さを近づけてください。",
        f"{longer} is {factor:.1f} times longer on average: the model first learns to write {direction[1]}. "
        "-> Bring the lengths together.",
    )  # fmt: skip


def _duplicates(rows: list[dict], dropped: int) -> Finding | None:
    number = dropped + len(rows) - len({tuple(whole_prompt(row[side]) for side in SIDES) for row in rows})
    if not number:
        return None
    share = number / (len(rows) + dropped)
    return Finding(
        "duplicates", "warn" if share >= 0.05 else "info", number,
        f"全く同じ対が {number} 行あります（{share:.1%}）。→ データの作り方を確かめてください。",
        f"{number} rows ({share:.1%}) are exact copies of another. -> Check how the data was made.",
    )  # fmt: skip


def _reversed(rows: list[dict]) -> Finding | None:
    pairs = {(prompt_key(row["prompt"]), row["chosen"], row["rejected"]) for row in rows}
    number = sum((prompt, rejected, chosen) in pairs for prompt, chosen, rejected in pairs) // 2
    if not number:
        return None
    return Finding(
        "reversed_pairs", "warn", number,
        f"chosen と rejected が逆の対が {number} 組あります。互いに打ち消します。→ どちらかを選んでください。",
        f"{number} pairs also occur the other way round and cancel each other. -> Decide for one.",
    )  # fmt: skip


def _few_groups(held_out: list[dict]) -> Finding | None:
    number = len({prompt_key(row["prompt"]) for row in held_out})
    if number >= FEW_GROUPS:
        return None
    return Finding(
        "few_eval_groups", "warn", number,
        f"評価側のプロンプトは {number} 種類だけです。評価の数値は当てになりません。→ プロンプトの種類を増やしてください。",
        f"The held-out side has only {number} distinct prompt(s): its numbers are not to be trusted. -> Add distinct prompts.",
    )  # fmt: skip


def _answers_on_both_sides(train: list[dict], held_out: list[dict]) -> Finding | None:
    known = {row[side] for row in train for side in ("chosen", "rejected")}
    share = _share(row["chosen"] in known or row["rejected"] in known for row in held_out)
    if not share:
        return None
    return Finding(
        "answers_on_both_sides", "warn" if share >= 0.1 else "info", share,
        f"評価側の {share:.0%} の行に、学習側にもある応答文があります。→ 使い回しの応答文を減らしてください。",
        f"{share:.0%} of the held-out rows have an answer that also stands in training. -> Re-use fewer answers.",
    )  # fmt: skip


def _summary(lengths: list[int]) -> dict[str, float]:
    import numpy

    values = numpy.asarray(lengths)
    shape: dict[str, Callable] = {"min": numpy.min, "median": numpy.median, "mean": numpy.mean}
    summary = {name: round(float(function(values)), 2) for name, function in shape.items()}
    return {**summary, "p95": round(float(numpy.percentile(values, 95)), 2), "max": float(values.max())}


def _token_lengths(texts: list[str], tokenizer: Any) -> list[int]:
    distinct = sorted(set(texts))
    ids = tokenizer(distinct, add_special_tokens=False)["input_ids"]
    lengths = {text: len(tokens) for text, tokens in zip(distinct, ids, strict=True)}
    return [lengths[text] for text in texts]


def _ratio(lengths: dict[str, list[int]]) -> float:
    return round(sum(lengths["chosen"]) / max(1, sum(lengths["rejected"])), 4)


def _share(flags: Any) -> float:
    values = [bool(flag) for flag in flags]
    return round(sum(values) / len(values), 4) if values else 0.0
