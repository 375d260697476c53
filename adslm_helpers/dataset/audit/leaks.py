"""Whether held-out numbers can be trusted: how many independent groups are held out, and what stands on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..near_duplicates import LIKE, alike_texts, near_key
from ..split import FEW_GROUPS, Split, joined_groups, prompt_key
from .finding import EXAMPLES, Finding, examples_of, place_of, quoted
from .shortcuts import sample
from .words import finding

SIDES = ("chosen", "rejected")
MOST_HELD = 5_000
"""Held-out rows that are compared with the training side for likeness: a share is then known to within 1.4 points."""
Sides = tuple[Sequence[dict], Sequence[dict]]
_MANY_ROWS = 100  # so many held-out rows look like evidence; fewer do not
UNTRUSTED = 0.5  # share of the held-out rows with a known answer, from which on the groups are not independent


def held_out_groups(split: Split | Sides) -> int:
    """How many groups of held-out rows share neither a prompt nor an answer."""
    held = list(_sides(split)[1])
    return len(set(joined_groups(held, [near_key(row["prompt"], mask_digits=False) for row in held])))


def find_few_groups(rows: Sequence[dict], split: Split | Sides) -> Finding | None:
    held, number = _sides(split)[1], held_out_groups(split)
    if number >= FEW_GROUPS:
        return None
    leak = random_split_leak(rows, len(held) / len(rows))
    return finding(
        "few_eval_groups", "error" if len(held) >= _MANY_ROWS else "warn", number,
        f"評価側の独立した組（プロンプトも応答文も共有しない）は {number} 組だけです（{len(held):,}行）。"
        f"行ごとに無作為に分けると、評価側の {leak:.0%} の行のプロンプトが学習側にもあります。",
        f"The held-out side has only {number} independent group(s) (no shared prompt or answer) in {len(held):,} rows. "
        f"A random split by rows would have the prompts of {leak:.0%} of the held-out rows in training too.",
        [quoted(prompt) for prompt in list(dict.fromkeys(prompt_key(row["prompt"]) for row in held))[:EXAMPLES]],
    )  # fmt: skip


def find_leaks(split: Split | Sides) -> list[Finding | None]:
    """Prompts on both sides; answers on both sides, the same (but for width, case, spaces and marks) and nearly the same."""
    train, held = _sides(split)
    known = {near_key(row["prompt"], mask_digits=False) for row in train}
    prompts = [n for n, row in enumerate(held) if near_key(row["prompt"], mask_digits=False) in known]
    answers = {near_key(row[side], mask_digits=False) for row in train for side in SIDES}
    keys = [{side: near_key(row[side], mask_digits=False) for side in SIDES} for row in held]
    same = [n for n, key in enumerate(keys) if not answers.isdisjoint(key.values())]
    return [_prompts(held, prompts), _answers(held, same, answers, keys), _near(train, held, set(same))]


def random_split_leak(rows: Sequence[dict], fraction: float) -> float:
    """The expected share of held-out rows whose prompt also stands in training, when each row is held out with chance `fraction`.

    A row of a prompt with s rows is safe only when the s - 1 others are held out too.
    """
    sizes = Counter(near_key(row["prompt"], mask_digits=False) for row in rows)
    return sum(size * (1 - fraction ** (size - 1)) for size in sizes.values()) / len(rows)


def _sides(split: Split | Sides) -> Sides:
    return (split.train, split.eval) if isinstance(split, Split) else split


def _prompts(held: Sequence[dict], numbers: list[int]) -> Finding | None:
    share = len(numbers) / len(held)
    return finding(
        "prompts_on_both_sides", "error", round(share, 4),
        f"評価側の {share:.0%} の行のプロンプトが学習側にもあります。",
        f"The prompts of {share:.0%} of the held-out rows stand in training too.",
        examples_of(held, numbers, "prompt"),
    ) if numbers else None  # fmt: skip


def _answers(held: Sequence[dict], numbers: list[int], known: set[str], keys: list[dict]) -> Finding | None:
    share = len(numbers) / len(held)
    shown = [(n, side) for n in numbers[:EXAMPLES] for side, key in keys[n].items() if key in known]
    severity = "error" if share >= UNTRUSTED else "warn" if share >= 0.1 else "info"
    return finding(
        "answers_on_both_sides", severity, round(share, 4),
        f"評価側の {share:.0%} の行に、学習側にもある応答文があります。",
        f"{share:.0%} of the held-out rows have an answer that also stands in training.",
        [f"{place_of(held[n], n)}: {side} {quoted(held[n][side])}" for n, side in shown[:EXAMPLES]],
    ) if numbers else None  # fmt: skip


def _near(train: Sequence[dict], held: Sequence[dict], same: set[int]) -> Finding | None:
    """Answers of held-out rows (but those with the `same` one) that are like one in training, digits masked."""
    looked, sampled = sample([row for n, row in enumerate(held) if n not in same], MOST_HELD)
    keys = [{side: near_key(row[side]) for side in SIDES} for row in looked]
    alike = alike_texts([key for pair in keys for key in pair.values()], [near_key(row[side]) for row in train for side in SIDES])
    places = [(n, side) for n, pair in enumerate(keys) for side, key in pair.items() if key in alike]
    if not places:
        return None
    share = len({n for n, _ in places}) / len(looked) * (1 - len(same) / len(held))
    return finding(
        "near_answers_on_both_sides", "warn" if share >= 0.2 else "info", round(share, 4),
        f"評価側の {share:.0%} の行に、学習側の応答文とほぼ同じ（{LIKE:.0%} 以上）応答文があります{sampled[0]}。",
        f"{share:.0%} of the held-out rows have an answer that is at least {LIKE:.0%} like one of the training side{sampled[1]}.",
        [f"{place_of(looked[n], n)}: {side} {quoted(looked[n][side])} ~ {quoted(alike[keys[n][side]])}" for n, side in places[:EXAMPLES]],
    )  # fmt: skip
