"""Training and held-out rows, with each prompt on one side only, and each answer too where the data allow it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from ..errors import DataError
from ..text.brief import whole_prompt
from .near_duplicates import near_key

FEW_GROUPS = 20
"""Held-out groups (prompts that share nothing) below which no held-out number is promised."""
_LEAST = 0.5  # of the share that is asked for: with less held out, the groups are too large to split
_OVERSHOOT = 1.15  # the held-out side may exceed its share by so much, rather than miss it by more


@dataclass(frozen=True)
class Split:
    """Two sides of a set of rows, both in its order. `by`: 'prompt and answer', or 'prompt' where answers tie too much together.

    `groups`: how many groups of what `by` says each side holds ('train', 'eval'). `trustworthy`: at least FEW_GROUPS of them are held out.
    """

    train: list[dict]
    eval: list[dict]
    by: str
    groups: dict[str, int] = field(default_factory=dict)

    @property
    def trustworthy(self) -> bool:
        return self.groups["eval"] >= FEW_GROUPS

    @property
    def statement_ja(self) -> str:
        if self.by == "prompt":
            return (
                "学習側と評価側の両方にあるプロンプトは 0 件です。同じ応答文が多くのプロンプトをつないでいるため、"
                "応答文まで分けることはできませんでした。"
            )
        return "学習側と評価側の両方にあるプロンプトも応答文も 0 件です。"

    @property
    def statement_en(self) -> str:
        if self.by == "prompt":
            return "No prompt stands on both sides. Answers could not be kept apart: the same ones join too many prompts."
        return "No prompt and no answer stands on both sides."

    def to_dict(self) -> dict:
        """What report.json says of it beyond the counts of rows; whether it is to be trusted, the audit says."""
        return {
            "grouped_by": self.by,
            **{f"{side}_groups": number for side, number in self.groups.items()},
            "statement_ja": self.statement_ja,
            "statement_en": self.statement_en,
        }


def prompt_key(prompt: str | list[dict]) -> str:
    """What two prompts have in common that differ only in width (NFKC) and white space."""
    return " ".join(unicodedata.normalize("NFKC", whole_prompt(prompt)).split())


def split_pairs(rows: list[dict], eval_fraction: float, seed: int) -> Split:
    """Holds out whole groups of rows that share a prompt or an answer (but for width, case, spaces and marks), else whole prompts.

    Prompts alone are the groups where shared answers tie so much together that not half of the share could be held out. Of an ad log the
    brief counts as the prompt (one brief on two channels is asked in two wordings). Rows that people have rated (`rated`) go into training:
    their prompts were held out once, and have been looked at since. The split depends on the prompts and the seed, not on the order of the
    rows. Raises DataError for fewer than two distinct prompts.
    """
    prompts = [near_key(_asked(row), mask_digits=False) for row in rows]
    _require_two(rows, prompts)
    target = eval_fraction * len(rows)
    for by, keys in (("prompt and answer", joined_groups(rows, prompts)), ("prompt", prompts)):
        sizes = Counter(keys)
        rated = {key for row, key in zip(rows, keys, strict=True) if row.get("rated") is True}
        unseen = Counter({key: n for key, n in sizes.items() if key not in rated}) or sizes
        held_out = _held_out(unseen, target, seed) if len(sizes) > 1 else set()
        if by == "prompt" or sum(sizes[key] for key in held_out) >= target * _LEAST:
            break
    groups = {"train": len(sizes) - len(held_out), "eval": len(held_out)}
    return Split(*_sides(rows, keys, held_out), by=by, groups=groups)


def _asked(row: dict) -> str | list[dict]:
    """What a row is about, in words."""
    brief = row.get("brief") if row.get("origin") == "ad_log" else None
    return brief if isinstance(brief, str) and brief.strip() else row["prompt"]


def joined_groups(rows: list[dict], prompts: list[str]) -> list[str]:
    """For each row the name of its group: rows that share a prompt (its key in `prompts`) or an answer are in one (union-find)."""
    parent = list(range(len(rows)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        answers = (("answer", near_key(row[side], mask_digits=False)) for side in ("chosen", "rejected"))
        for key in (("prompt", prompt), *answers):
            one, other = root(first.setdefault(key, number)), root(number)
            parent[max(one, other)] = min(one, other)
    # The name must not depend on the order of the rows, for the seed decides by it.
    names: dict[int, str] = {}
    for number, prompt in enumerate(prompts):
        group = root(number)
        names[group] = min(names.get(group, prompt), prompt)
    return [names[root(number)] for number in range(len(rows))]


def _require_two(rows: list[dict], keys: list[str]) -> None:
    if (number := len(set(keys))) < 2:
        raise DataError(
            f"プロンプトが {number} 種類しかないため、評価用に取り分けられません（同じプロンプトは片側だけに置きます）。"
            "→ 別のプロンプト（商品・対象・訴求の違う依頼）の行を足してください。",
            f"Only {number} distinct prompt(s): nothing can be held out, for a prompt stands on one side only. "
            "-> Add rows with other prompts (another product, audience or selling point).",
        )


def _sides(rows: list[dict], keys: list[str], held_out: set[str]) -> tuple[list[dict], list[dict]]:
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held_out]
    held = [row for row, key in zip(rows, keys, strict=True) if key in held_out]
    assert train and held and len(train) + len(held) == len(rows)
    assert not {prompt_key(row["prompt"]) for row in train} & {prompt_key(row["prompt"]) for row in held}
    return train, held


def _held_out(sizes: Counter[str], target: float, seed: int) -> set[str]:
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed}\n{key}".encode()).digest())
    chosen: set[str] = set()
    total = 0
    for key in order:
        closer = abs(total + sizes[key] - target) < abs(total - target)
        if closer and total + sizes[key] <= target * _OVERSHOOT and len(chosen) < len(order) - 1:
            chosen.add(key)
            total += sizes[key]
    return chosen or {min(order, key=lambda key: sizes[key])}
